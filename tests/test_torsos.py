"""Observation encoders: pixels in, features out."""

import pytest
import torch

from networks.actor_critic import ActorCritic
from networks.config import NetworkConfig
from networks.distributions import Choice
from networks.torsos import MLPTorso, NatureTorso, Part, Pixels, ResNetTorso
from runners.weights import flatten_weights, load_weights

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
