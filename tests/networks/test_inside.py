"""A look inside a transformer against a walk over its steps one by one, written from the equations."""

import numpy as np
import pytest
import torch

from networks.actor_critic import ActorCritic
from networks.config import NetworkConfig
from networks.distributions import Choice
from networks.inside import gate_metrics, look_inside
from networks.torsos import Part
from support import oracles
from support.oracles import array

LAYERS, HEADS, MEMORY, STEPS, BATCH = 2, 2, 5, 12, 3
VARIANTS = [("trxl", "gru"), ("trxl-i", "gru"), ("gtrxl", "gru"), ("gtrxl", "input"), ("gtrxl", "highway")]


def make_network(core: str, gate: str) -> ActorCritic:
    """Every parameter of the core random."""
    torch.manual_seed(0)
    config = NetworkConfig(
        core=core, gate=gate, layers=LAYERS, heads=HEADS, memory=MEMORY, embedding=8, key_size=3, mlp_size=10
    )
    network = ActorCritic(config, [Part("vector", (6,))], Choice(3)).double().eval()
    with torch.no_grad():
        for parameter in network.core.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, dtype=torch.float64))
    return network


def make_inputs() -> tuple[torch.Tensor, ...]:
    """An unroll whose episodes begin at the start in one environment, in the middle in another, never in the third."""
    generator = torch.Generator().manual_seed(1)
    first = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    first[0, 0] = first[4, 1] = first[9, 1] = True
    observation = torch.randn(STEPS, BATCH, 6, generator=generator, dtype=torch.float64)
    action = torch.randint(3, (STEPS, BATCH), generator=generator)
    return observation, action, torch.randn(STEPS, BATCH, generator=generator, dtype=torch.float64), first


def walked(network: ActorCritic, core: str, gate: str, inputs: tuple[torch.Tensor, ...]) -> np.ndarray:
    """Weights [L, B, H, T, M+1] with the memory of each layer as a plain list."""
    flat = (each.flatten(0, 1) for each in inputs)
    x, first = array(network.encode(*flat)).reshape(STEPS, BATCH, -1), inputs[3]
    layers = [oracles.layer_weights(layer, core, gate) for layer in network.core.layers]
    seen = np.zeros((LAYERS, BATCH, HEADS, STEPS, MEMORY + 1))
    for b in range(BATCH):
        memories: list[list[np.ndarray]] = [[] for _ in layers]
        for t in range(STEPS):
            if first[t, b]:
                memories = [[] for _ in layers]
            e = x[t, b]
            for i, p in enumerate(layers):
                window = memories[i][-MEMORY:]
                keys = [*window, e]
                if core != "trxl":
                    keys = [oracles.layer_norm(k, p["attention_norm.weight"], p["attention_norm.bias"]) for k in keys]
                ages = range(len(window), -1, -1)
                seen[i, b, :, t, MEMORY - len(window) :] = oracles.attended_to(p["attention"], keys[-1], keys, ages)
                memories[i].append(e)
                e = oracles.transformer_layer(p, core, window, e)
    return seen


@pytest.mark.parametrize(("core", "gate"), VARIANTS)
@pytest.mark.parametrize("cut", [5, STEPS])
def test_weights_are_those_of_a_walk_over_the_steps(core: str, gate: str, cut: int) -> None:
    """Whole, and in two unrolls with the state between them; zero on empty places and before an episode's start."""
    network, inputs = make_network(core, gate), make_inputs()
    state, parts = tuple(s.double() if s.is_floating_point() else s for s in network.initial_state(BATCH)), []
    for begin, end in ((0, cut), (cut, STEPS)):
        if begin < end:
            seen, state = look_inside(network, *(each[begin:end] for each in inputs), state)
            parts.append(seen.attention)
    attention = torch.cat(parts, 3)
    np.testing.assert_allclose(array(attention), walked(network, core, gate, inputs), atol=1e-6)
    torch.testing.assert_close(attention.sum(-1), torch.ones(LAYERS, BATCH, HEADS, STEPS, dtype=torch.float64))
    assert not attention[:, 0, :, 0, :-1].any() and not attention[:, 1, :, 4, :-1].any()
    assert attention[:, 1, :, 3, :-1].any() and not attention[:, 1, :, 10, :-2].any()


@pytest.mark.parametrize(("core", "gate"), VARIANTS)
def test_openness_is_that_of_the_gates_on_what_they_were_given(core: str, gate: str) -> None:
    network, inputs = make_network(core, gate), make_inputs()
    seen, _ = look_inside(network, *inputs, network.initial_state(BATCH))
    if core != "gtrxl" or gate == "input":
        assert seen.openness is None and gate_metrics(network, *inputs, network.initial_state(BATCH)) == {}
        return
    assert seen.openness.shape == (LAYERS, 2, BATCH, STEPS)
    with torch.no_grad():  # the last layer's last gate can be shut, and then alone moves
        network.core.layers[1].mlp_gate.bias.fill_(1e3)
    shut, _ = look_inside(network, *inputs, network.initial_state(BATCH))
    torch.testing.assert_close(shut.openness[1, 1], torch.zeros(BATCH, STEPS, dtype=torch.float64))
    torch.testing.assert_close(shut.openness.flatten(0, 1)[:-1], seen.openness.flatten(0, 1)[:-1])
    metrics = gate_metrics(network, *inputs, network.initial_state(BATCH))
    assert metrics["memory/gate_mlp_2"] == 0
    torch.testing.assert_close(metrics["memory/gate_attention_1"], seen.openness[0, 0].mean())
    assert list(metrics) == [f"memory/gate_{part}_{i}" for i in (1, 2) for part in ("attention", "mlp")]


def test_a_look_leaves_nothing_behind() -> None:
    network, inputs = make_network("gtrxl", "gru"), make_inputs()
    state = network.initial_state(BATCH)
    before = network(*inputs, state).value
    look_inside(network, *inputs, state)
    with pytest.raises(ValueError, match="unpack"):
        look_inside(network, *inputs, ())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(network(*inputs, state).value, before)
