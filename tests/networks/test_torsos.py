"""Observation encoders: pixels in, features out."""

import pytest
import torch

from networks.actor_critic import ActorCritic
from networks.config import NetworkConfig
from networks.distributions import Choice
from networks.torsos import MLPTorso, NatureTorso, Part, Pixels, ResNetTorso, SymbolTorso, make_torso, torso_of
from runners.acting.weights import flatten_weights, load_weights

SHAPE = (4, 84, 84)


def pictures(n: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixels_are_scaled_or_centred_on_the_mean_picture() -> None:
    x = pictures()
    torch.testing.assert_close(Pixels(SHAPE, centred=False)(x), x.double().div(255).float())
    centred = Pixels(SHAPE, centred=True)
    centred.fit(x)
    torch.testing.assert_close(centred.mean.data, x.double().mean(0).float())
    torch.testing.assert_close(centred(x), ((x.double() - x.double().mean(0)) / 64).float(), atol=1e-5, rtol=1e-5)
    assert centred(x).is_contiguous(memory_format=torch.channels_last), "as the convolutions compute"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(centred(x), (x - centred.mean).detach() / 64), "in float32 all the same"
    plain = Pixels(SHAPE, centred=False)
    plain.fit(x)
    assert not plain.mean.any()


def test_the_mean_picture_travels_with_the_weights_and_is_never_trained() -> None:
    config = NetworkConfig(core="feedforward", centre_pixels=True, embedding=16, torso_hidden=32)
    network, actor = (ActorCritic(config, [Part("picture", SHAPE)], Choice(3)) for _ in range(2))
    x = pictures()
    network.fit_input(x.unsqueeze(1))
    load_weights(actor, flatten_weights(network))
    assert actor.torso.body[0].weight.is_contiguous(memory_format=torch.channels_last), "as the torso laid it out"
    zeros, false = torch.zeros(6), torch.zeros(6, dtype=torch.bool)
    torch.testing.assert_close(actor.encode(x, zeros, zeros, false), network.encode(x, zeros, zeros, false))
    network.encode(x, zeros, zeros, false).sum().backward()
    assert network.torso.pixels.mean.grad is None
    assert network.torso.body[0].weight.grad is not None


@pytest.mark.parametrize("width", [(16, 32, 32), (64, 128, 128)])
def test_resnet_has_the_layers_of_impala(width: tuple[int, int, int]) -> None:
    """Three sections of a convolution, a stride-2 pool and two residual blocks: 84 -> 42 -> 21 -> 11 pixels."""
    torso = ResNetTorso(SHAPE, width, 256)
    convolutions = [m for m in torso.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 15 and torso.linear.in_features == width[-1] * 11 * 11
    assert torso(pictures(2)).shape == (2, 256)
    expected, before = 0, 4
    for after in width:
        expected += before * after * 9 + after + 4 * (after * after * 9 + after)
        before = after
    assert sum(p.numel() for m in convolutions for p in m.parameters()) == expected


def test_nature_and_mlp_shapes_and_independence_of_the_batch() -> None:
    assert NatureTorso(SHAPE, (16, 32, 48), 256).linear.in_features == 48 * 7 * 7
    torso = NatureTorso(SHAPE, (32, 64, 64), 512)
    assert torso.linear.in_features == 3136
    assert sum(p.numel() for p in torso.body.parameters()) == 77_984
    x = pictures(3)
    torch.testing.assert_close(torso(x)[1:2], torso(x[1:2]), atol=1e-5, rtol=1e-5)
    assert MLPTorso(9, 64)(torch.zeros(5, 9)).shape == (5, 64)


PARTS = {
    "vector": [Part("vector", (5,), normalised=True)],
    "onehot": [Part("onehot", (4,))],
    "picture": [Part("picture", (3, 84, 84))],
    "middling picture": [Part("picture", (1, 24, 30))],
    "small picture": [Part("picture", (4, 10, 10))],
    "symbols": [Part("symbols", (7, 7, 3), (11, 6, 3))],
    "few symbols": [Part("symbols", (3, 4, 1), (5,))],
    "everything": [
        Part("vector", (2,), normalised=True),
        Part("picture", (3, 40, 36)),
        Part("mask", (3,)),
        Part("symbols", (7, 7, 3), (11, 6, 3)),
        Part("onehot", (4,)),
        Part("vector", (1,)),
    ],
}
every = pytest.mark.parametrize("name", PARTS)


def draw(part: Part, *shape: int) -> torch.Tensor:
    """Something of `part`'s kind, [*shape, *part.shape]."""
    if part.kind == "picture":
        return torch.randint(256, (*shape, *part.shape), dtype=torch.uint8)
    if part.kind == "symbols":
        return torch.stack([torch.randint(n, (*shape, *part.shape[:2])) for n in part.symbols], -1).to(torch.uint8)
    if part.kind == "vector":
        return torch.randn(*shape, *part.shape)
    if part.kind == "mask":
        allowed = torch.rand(*shape, *part.shape) < 0.5
        allowed[..., 0] = True
        return allowed.float()
    return torch.eye(part.size)[torch.randint(part.size, shape)]


def observations(parts: list[Part], *shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    drawn = [draw(part, *shape) for part in parts]
    return drawn[0] if len(parts) == 1 else torch.cat([x.flatten(len(shape)).float() for x in drawn], -1)


@every
def test_a_torso_for_every_kind_of_observation_sees_each_of_them_alone(name: str) -> None:
    parts = PARTS[name]
    config = NetworkConfig(nature_channels=(8, 16, 16), torso_hidden=32)
    torso = make_torso(config, parts).eval()
    x = observations(parts, 6)
    features = torso(x)
    assert features.shape == (6, torso.output_size) and features.dtype == torch.float32
    torch.testing.assert_close(torso(x[2:3]), features[2:3], atol=1e-5, rtol=1e-5)
    assert (features[0] - features[1]).abs().max() > 0, "it sees something"
    features.sum().backward()
    assert all(p.grad is not None for p in torso.parameters() if p.requires_grad)


@every
@pytest.mark.parametrize("core", ["lstm", "gtrxl"])
def test_a_whole_unroll_is_the_same_step_by_step(name: str, core: str) -> None:
    parts, steps, envs = PARTS[name], 7, 3
    config = NetworkConfig(nature_channels=(8, 16, 16), torso_hidden=32, embedding=16, core=core, memory=4, heads=2)
    torch.manual_seed(0)
    network = ActorCritic(config, parts, Choice(3)).eval()
    x = observations(parts, steps, envs)
    network.fit_input(x)
    action, reward = torch.randint(3, (steps, envs)), torch.randn(steps, envs)
    first = torch.rand(steps, envs) < 0.2
    with torch.no_grad():
        whole = network(x, action, reward, first, network.initial_state(envs))
        stepper = network.core.acting(network.initial_state(envs), steps)
        for t in range(steps):
            y = stepper.step(network.encode(x[t], action[t], reward[t], first[t]), first[t])
            torch.testing.assert_close(network.policy(y, x[t]).logits, whole.policy.logits[t], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(network.value_head(y), whole.value[t], atol=1e-5, rtol=1e-5)


def test_symbols_are_names_and_not_amounts() -> None:
    """Each value of each channel is an input of its own; a value beyond the last counts as the last."""
    torso = SymbolTorso((7, 7, 2), (3, 4), (8, 8), 16)
    assert torso.body[0].in_channels == 7
    grid = torch.zeros(1, 7, 7, 2, dtype=torch.uint8)
    seen = {torso(grid + torch.tensor([a, b], dtype=torch.uint8)).sum().item() for a in range(3) for b in range(4)}
    assert len(seen) == 12
    beyond = torch.zeros_like(grid)
    beyond[..., 0] = 200
    last = torch.zeros_like(grid)
    last[..., 0] = 2
    torch.testing.assert_close(torso(beyond), torso(last))


def test_the_torso_follows_from_the_observation() -> None:
    names = {name: torso_of(parts) for name, parts in PARTS.items()}
    assert names == {
        "vector": "mlp",
        "onehot": "mlp",
        "picture": "nature",
        "middling picture": "small",
        "small picture": "small",
        "symbols": "symbols",
        "few symbols": "symbols",
        "everything": "mixed",
    }
    assert isinstance(make_torso(NetworkConfig(torso="resnet"), PARTS["picture"]), ResNetTorso)
    assert isinstance(make_torso(NetworkConfig(torso="resnet"), PARTS["vector"]), MLPTorso)
