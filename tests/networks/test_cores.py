"""The laws of a memory core, for every core: how an unroll is cut, and what is saved in between, must not show.

The reference is a list per layer and environment, one step at a time; the properties need no reference at all.
"""

import copy
import io
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from networks.config import NetworkConfig
from networks.cores import CORES as NAMED
from networks.cores import FeedforwardCore, GRUCore, LSTMCore, MinGRUCore, make_core
from networks.transformer import TransformerCore
from support import oracles
from support.oracles import array

SIZE, LAYERS, HEADS, KEY_SIZE, MLP_SIZE = 8, 2, 2, 3, 10
BATCH, STEPS = 3, 9
MEMORIES = (1, 3, 20)  # one step, less than an unroll, more than an unroll
GATES = ("gru", "input", "output", "highway", "sigtanh")
VARIANTS = [("trxl", "gru"), ("trxl-i", "gru"), *(("gtrxl", gate) for gate in GATES)]
PATTERNS = ("never", "always", "at the start", "consecutive", "random", "rare")


@dataclass(frozen=True)
class Kind:
    """A core to build. memory 0: not a transformer."""

    name: str
    gate: str = "gru"
    memory: int = 0

    def __str__(self) -> str:
        return "-".join(str(part) for part in (self.name, self.gate, self.memory) if part) if self.memory else self.name

    def make(self, seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = LAYERS) -> torch.nn.Module:
        """Every parameter random, biases and norms too: what starts at zero or one must count in a test."""
        torch.manual_seed(seed)
        sizes = dict(embedding=SIZE, layers=layers, heads=HEADS, key_size=KEY_SIZE, mlp_size=MLP_SIZE)
        core = make_core(
            NetworkConfig(core=self.name, gate=self.gate, gate_bias=0.5, memory=self.memory or 64, **sizes)
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in core.parameters():
                parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
        return core.to(dtype)


# A gate works on one step at a time: each has one length of memory here, the GRU gate all of them.
TRANSFORMERS = [
    Kind(*variant, memory) for variant in VARIANTS for memory in (MEMORIES if variant[1] == "gru" else (3,))
]
OTHERS = [Kind(name) for name, core in NAMED.items() if core not in (FeedforwardCore, TransformerCore)]
RECURRENT = [*OTHERS, *TRANSFORMERS]
CORES = [Kind("feedforward"), *RECURRENT]
every = partial(pytest.mark.parametrize, ids=str)
every_core = every("kind", CORES)
every_recurrent = every("kind", RECURRENT)
every_transformer = every("kind", TRANSFORMERS)
# Where a property does not hang on the kind of gate.
few_transformers = every("kind", [kind for kind in TRANSFORMERS if kind.gate == "gru"])


def inputs(seed: int, steps: int = STEPS, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(steps, BATCH, SIZE, generator=torch.Generator().manual_seed(1000 + seed)).to(dtype)


def firsts(pattern: str, seed: int = 0, steps: int = STEPS) -> Tensor:
    generator = torch.Generator().manual_seed(2000 + seed)
    first = torch.zeros(steps, BATCH, dtype=torch.bool)
    if pattern == "always":
        first[:] = True
    elif pattern == "at the start":
        first[0] = True
    elif pattern == "consecutive":  # in one environment early, in another in the middle, in the third at the end
        first[0:2, 0] = first[3:6, 1] = first[-2:, 2] = True
    elif pattern in ("random", "rare"):
        first = torch.rand(steps, BATCH, generator=generator) < (0.4 if pattern == "random" else 0.12)
    return first


def used_state(core: torch.nn.Module, seed: int = 0, steps: int = 4) -> tuple[Tensor, ...]:
    """A state some way into an episode, of another age in each environment."""
    dtype = next(iter(core.parameters()), torch.empty(0)).dtype
    first = torch.zeros(steps, BATCH, dtype=torch.bool)
    first[-2, 1] = first[-1, 2] = True
    with torch.no_grad():
        return core(inputs(500 + seed, steps, dtype), first, core.initial_state(BATCH))[1]


def valid(state: tuple[Tensor, ...]) -> list[Tensor]:
    """Return what of a state has a meaning: a transformer's newest `length` slots, all of another core's."""
    if len(state) == 2 and state[0].dim() == 4:
        memory, length = state
        return [length, *(memory[b, :, memory.shape[2] - n :] for b, n in enumerate(length.tolist()))]
    return list(state)


def assert_same_state(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert [part.shape for part in actual] == [part.shape for part in expected]
    for a, b in zip(valid(actual), valid(expected), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def in_pieces(core, x: Tensor, first: Tensor, state, cuts: list[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    outputs = []
    for begin, end in zip([0, *cuts], [*cuts, len(x)], strict=True):
        y, state = core(x[begin:end], first[begin:end], state)
        outputs.append(y)
    return torch.cat(outputs), state


def act(core, x: Tensor, first: Tensor, state, horizon: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    stepper = core.acting(state, horizon)
    with torch.no_grad():
        y = torch.stack([stepper.step(x_t, first_t) for x_t, first_t in zip(x, first, strict=True)])
    return y, stepper.state()


# --- against the reference ------------------------------------------------------------------------


@every_transformer
@pytest.mark.parametrize("pattern", ["never", "random"])
def test_transformer_matches_lists_of_memories(kind: Kind, pattern: str) -> None:
    core = kind.make(dtype=torch.float64)
    layers = [oracles.layer_weights(layer, kind.name, kind.gate) for layer in core.layers]
    state = core.initial_state(BATCH)
    memories = None
    for part in range(2):  # the second unroll begins from the first one's memory
        x, first = inputs(part, 6, torch.float64), firsts(pattern, part, 6)
        with torch.no_grad():
            y, state = core(x, first, state)
        expected, memories = oracles.transformer(layers, kind.name, kind.memory, array(x), first.numpy(), memories)
        np.testing.assert_allclose(array(y), expected, atol=1e-5, rtol=1e-5)  # its sinusoids may be in float32
        memory, length = state
        assert length.dtype == torch.int64
        assert length.tolist() == [len(memories[b][0]) for b in range(BATCH)]
        for b, n in enumerate(length.tolist()):
            expected_memory = np.stack([np.stack(slots) for slots in memories[b]])
            np.testing.assert_allclose(array(memory[b, :, kind.memory - n :]), expected_memory, atol=1e-5, rtol=1e-5)


@every("kind", [Kind("trxl", memory=3), Kind("trxl-i", memory=3), Kind("gtrxl", "gru", 3)])
def test_transformer_matches_lists_of_memories_when_acting(kind: Kind) -> None:
    core = kind.make(dtype=torch.float64)
    layers = [oracles.layer_weights(layer, kind.name, kind.gate) for layer in core.layers]
    x, first = inputs(0, dtype=torch.float64), firsts("rare")
    expected, _ = oracles.transformer(layers, kind.name, kind.memory, array(x), first.numpy())
    y, _ = act(core, x, first, core.initial_state(BATCH), horizon=4)
    np.testing.assert_allclose(array(y), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_lstm_matches_its_equations(pattern: str) -> None:
    core = LSTMCore(SIZE, 5).double()
    weights = {name.split(".")[-1]: array(value) for name, value in core.state_dict().items()}
    state = tuple(torch.randn(BATCH, 5, dtype=torch.float64) for _ in range(2))
    x, first = inputs(0, dtype=torch.float64), firsts(pattern)
    y, (h, c) = core(x, first, state)
    expected = oracles.lstm(
        weights["weight_ih_l0"],
        weights["weight_hh_l0"],
        weights["bias_ih_l0"] + weights["bias_hh_l0"],
        array(x),
        first.numpy(),
        array(state[0]),
        array(state[1]),
    )
    for actual, reference in zip((y, h, c), expected, strict=True):
        np.testing.assert_allclose(array(actual), reference, atol=1e-9)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_gru_matches_its_equations(pattern: str) -> None:
    core = GRUCore(SIZE, 5).double()
    weights = {name.split(".")[-1]: array(value) for name, value in core.state_dict().items()}
    begin = torch.randn(BATCH, 5, dtype=torch.float64)
    x, first = inputs(0, dtype=torch.float64), firsts(pattern)
    y, (h,) = core(x, first, (begin,))
    order = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    expected = oracles.gru(*(weights[name] for name in order), array(x), first.numpy(), array(begin))
    for actual, reference in zip((y, h), expected, strict=True):
        np.testing.assert_allclose(array(actual), reference, atol=1e-9)


@pytest.mark.parametrize("span", [3, 64])
def test_lstm_starts_with_time_scales_up_to_its_span(span: int) -> None:
    """An open forget gate f keeps what it holds for 1 / (1 - f) steps, and its input gate is 1 - f."""
    torch.manual_seed(0)
    core = LSTMCore(SIZE, 4000, span=span)
    bias = core.lstm.bias_ih_l0 + core.lstm.bias_hh_l0
    into, forget, _, _ = bias.sigmoid().split(4000)
    torch.testing.assert_close(into, 1 - forget)
    steps = 1 / (1 - forget)
    assert 2 <= steps.min() < 2.1 and 0.97 * span < steps.max() <= span
    torch.testing.assert_close(steps.mean(), torch.tensor((span + 2) / 2), rtol=0.05, atol=0)


@pytest.mark.parametrize("span", [3, 64])
def test_gru_starts_with_time_scales_up_to_its_span(span: int) -> None:
    """An open update gate z keeps what it holds for 1 / (1 - z) steps, and takes in the rest."""
    torch.manual_seed(0)
    core = GRUCore(SIZE, 4000, span=span)
    reset, update, candidate = (core.gru.bias_ih_l0 + core.gru.bias_hh_l0).split(4000)
    assert max(reset.abs().max(), candidate.abs().max()) <= 2 * 4000**-0.5  # as torch makes them
    steps = 1 / (1 - update.sigmoid())
    assert 2 <= steps.min() < 2.1 and 0.97 * span < steps.max() <= span
    torch.testing.assert_close(steps.mean(), torch.tensor((span + 2) / 2), rtol=0.05, atol=0)


def test_feedforward_core_has_no_memory() -> None:
    core, x = FeedforwardCore(SIZE), inputs(0)
    y, state = core(x, firsts("random"), core.initial_state(BATCH))
    assert state == () and core.initial_state(BATCH) == ()
    torch.testing.assert_close(y, x)


# --- a whole unroll == cut anywhere == step by step -----------------------------------------------


@every_core
@pytest.mark.parametrize("pattern", PATTERNS)
def test_cuts_do_not_show(kind: Kind, pattern: str) -> None:
    core = kind.make()
    x, first = inputs(1), firsts(pattern)
    with torch.no_grad():
        for state in (core.initial_state(BATCH), used_state(core)):
            y, end = core(x, first, state)
            alone, none = core(x, first, state, need_state=False)
            torch.testing.assert_close(alone, y, rtol=0, atol=0)
            assert not none
            for cuts in ([1], [2], [4], [8], [2, 3, 7], list(range(1, STEPS))):
                pieces, pieces_end = in_pieces(core, x, first, state, cuts)
                torch.testing.assert_close(pieces, y, atol=1e-5, rtol=1e-5)
                assert_same_state(pieces_end, end)


@every_core
@pytest.mark.parametrize("pattern", PATTERNS)
def test_acting_is_the_unroll(kind: Kind, pattern: str) -> None:
    """Also with fewer steps foreseen than taken: horizons 1, 2 and 5 for nine steps."""
    core = kind.make()
    x, first = inputs(2), firsts(pattern)
    for state in (core.initial_state(BATCH), used_state(core)):
        with torch.no_grad():
            y, end = core(x, first, state)
        for horizon in (1, 2, 5, STEPS, 40):
            acted, acted_end = act(core, x, first, state, horizon)
            torch.testing.assert_close(acted, y, atol=1e-5, rtol=1e-5)
            assert_same_state(acted_end, end)


@every_core
def test_acting_and_unrolling_take_turns(kind: Kind) -> None:
    """Each takes over the other's state, in mid-horizon too; asking for the state does not disturb the stepper."""
    core = kind.make()
    x, first = inputs(3, 4 * STEPS), firsts("rare", 3, 4 * STEPS)
    with torch.no_grad():
        y, end = core(x, first, core.initial_state(BATCH))
        state, outputs, at = core.initial_state(BATCH), [], 0
        for k, steps in enumerate((3, 5, 1, 7, 2, 9, 4, 5)):
            if k % 2:
                part, state = core(x[at : at + steps], first[at : at + steps], state)
            else:
                stepper = core.acting(state, 4)
                part = []
                for t in range(at, at + steps):
                    part.append(stepper.step(x[t], first[t]))
                    state = stepper.state()
                part = torch.stack(part)
            outputs.append(part)
            at += steps
    assert at == 4 * STEPS
    torch.testing.assert_close(torch.cat(outputs), y, atol=1e-5, rtol=1e-5)
    assert_same_state(state, end)


@every_recurrent
def test_a_state_handed_out_does_not_change_later(kind: Kind) -> None:
    """Unrolls carry their first state to the learner while the actor goes on."""
    core = kind.make()
    begin = used_state(core)
    kept = copy.deepcopy(begin)
    stepper = core.acting(begin, 3)
    x, first = inputs(4), firsts("rare")
    stepper.step(x[0], first[0])
    handed, snapshot = stepper.state(), copy.deepcopy(stepper.state())
    for x_t, first_t in zip(x, first, strict=True):
        stepper.step(x_t, first_t)
    core(x, first, begin)
    for a, b in zip((*begin, *handed), (*kept, *snapshot), strict=True):
        assert torch.equal(a, b)


@every_core
def test_a_long_run_in_steps(kind: Kind) -> None:
    """Errors do not pile up: several windows' length, many refills of the cache."""
    core = kind.make()
    steps = 64
    x, first = inputs(5, steps), firsts("rare", 5, steps)
    with torch.no_grad():
        y, end = core(x, first, core.initial_state(BATCH))
    acted, acted_end = act(core, x, first, core.initial_state(BATCH), horizon=7)
    torch.testing.assert_close(acted, y, atol=1e-5, rtol=1e-5)
    assert_same_state(acted_end, end)


@every_core
def test_saved_and_loaded(kind: Kind) -> None:
    """Through a file, into a core made anew with another seed."""
    core, other = kind.make(seed=0), kind.make(seed=1)
    x, first = inputs(6), firsts("rare")
    with torch.no_grad():
        y, end = core(x, first, core.initial_state(BATCH))
        head, state = core(x[:4], first[:4], core.initial_state(BATCH))
        file = io.BytesIO()
        torch.save({"state": state, "core": core.state_dict()}, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        other.load_state_dict(loaded["core"])
        tail, loaded_end = other(x[4:], first[4:], tuple(loaded["state"]))
    torch.testing.assert_close(torch.cat([head, tail]), y, atol=1e-5, rtol=1e-5)
    assert_same_state(loaded_end, end)


@every_recurrent
def test_new_weights_when_acting(kind: Kind) -> None:
    """A stepper made after the weights changed uses the new ones on the old memory, as an unroll does."""
    core = kind.make(dtype=torch.float64)  # in float32 the raised weights make rounding count for more than 1e-5
    x, first = inputs(7, dtype=torch.float64), firsts("rare")
    _, state = act(core, x, first, core.initial_state(BATCH), horizon=20)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.mul_(1.1)
        y, _ = core(x, first, state)
    acted, _ = act(core, x, first, state, horizon=20)
    torch.testing.assert_close(acted, y, atol=1e-10, rtol=1e-10)


@every_core
def test_shapes(kind: Kind) -> None:
    core = kind.make()
    assert core.output_size == SIZE
    state = core.initial_state(5)
    assert isinstance(state, tuple) and all(part.shape[0] == 5 for part in state)
    if kind.memory:
        assert [tuple(part.shape) for part in state] == [(5, LAYERS, kind.memory, SIZE), (5,)]
        assert state[1].dtype == torch.int64 and not state[1].any()
    y, end = core(torch.zeros(2, 5, SIZE), torch.zeros(2, 5, dtype=torch.bool), state)
    assert y.shape == (2, 5, SIZE)
    assert [part.shape for part in end] == [part.shape for part in state]
    stepper = core.acting(state, 2)
    acted = stepper.step(torch.zeros(5, SIZE), torch.zeros(5, dtype=torch.bool))
    assert acted.shape == (5, SIZE) and not acted.requires_grad
    assert not any(part.requires_grad for part in stepper.state())


@every("kind", [*OTHERS, Kind("gtrxl", "gru", 3)])
def test_acting_in_inference_mode_leaves_learning_intact(kind: Kind) -> None:
    """One process acts, then learns: what acting computed once and kept (tables) must be fit for a gradient."""
    core = kind.make()
    steps = 13  # a length of its own: the table was not made by another test
    x, first = inputs(19, steps), firsts("rare", 19, steps)
    with torch.inference_mode():
        core(x, first, core.initial_state(BATCH))
        act(core, x, first, core.initial_state(BATCH), steps)
    core(x, first, core.initial_state(BATCH))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in core.parameters())


# --- isolation ------------------------------------------------------------------------------------


@every_core
@pytest.mark.parametrize("acting", [False, True], ids=["unroll", "acting"])
def test_nothing_leaks_across_a_first(kind: Kind, acting: bool) -> None:
    """Other inputs, state and episode ends before a first: nothing after it and nothing elsewhere changes."""
    core = kind.make()
    run = partial(act, core, horizon=3) if acting else core
    for begin in (0, 1, 5):
        for b in range(BATCH):
            x, first, state = inputs(8), firsts("rare", 8), used_state(core)
            first[begin, b] = True
            x_other, first_other = x.clone(), first.clone()
            x_other[:begin, b] = 100.0 * torch.randn(begin, SIZE)
            first_other[:begin, b] = ~first_other[:begin, b]
            state_other = tuple(part.clone() for part in state)
            for part in state_other:
                if part.is_floating_point():
                    part[b] = 100.0 * torch.randn_like(part[b])
                else:
                    part[b] = kind.memory
            with torch.no_grad():
                y, end = run(x, first, state=state)
                y_other, end_other = run(x_other, first_other, state=state_other)
            torch.testing.assert_close(y_other[begin:, b], y[begin:, b], atol=1e-5, rtol=1e-5)
            elsewhere = [other for other in range(BATCH) if other != b]
            torch.testing.assert_close(y_other[:, elsewhere], y[:, elsewhere], atol=1e-5, rtol=1e-5)
            assert_same_state(end_other, end)


@every_recurrent
def test_without_a_first_the_past_matters(kind: Kind) -> None:
    """The guard of the tests above: they could pass with no memory at all."""
    core = kind.make()
    x, none = inputs(9), firsts("never")
    other = x.clone()
    other[0, 0] += torch.randn(SIZE)  # not a constant: a layer norm takes that away
    with torch.no_grad():
        y, _ = core(x, none, core.initial_state(BATCH))
        y_other, _ = core(other, none, core.initial_state(BATCH))
        from_memory, _ = core(x, none, used_state(core))
    assert (y_other[1, 0] - y[1, 0]).abs().max() > 1e-4
    assert torch.equal(y_other[:, 1:], y[:, 1:]) or torch.allclose(y_other[:, 1:], y[:, 1:], atol=1e-6)
    assert ((from_memory - y)[0].abs().amax(-1) > 1e-4).all()


@every_recurrent
def test_a_first_is_a_fresh_start(kind: Kind) -> None:
    core = kind.make()
    x = inputs(10)
    with torch.no_grad():
        fresh, fresh_end = core(x, firsts("never"), core.initial_state(BATCH))
        reset, reset_end = core(x, firsts("at the start"), used_state(core))
    torch.testing.assert_close(reset, fresh, atol=1e-5, rtol=1e-5)
    assert_same_state(reset_end, fresh_end)


@every_core
def test_environments_do_not_see_each_other(kind: Kind) -> None:
    core = kind.make()
    x, first, state = inputs(11), firsts("random", 11), used_state(core)
    with torch.no_grad():
        y, _ = core(x, first, state)
        for b in range(BATCH):
            alone, _ = core(x[:, b : b + 1], first[:, b : b + 1], tuple(part[b : b + 1] for part in state))
            torch.testing.assert_close(alone, y[:, b : b + 1], atol=1e-5, rtol=1e-5)
        order = [2, 0, 1]
        shuffled, _ = core(x[:, order], first[:, order], tuple(part[order] for part in state))
    torch.testing.assert_close(shuffled, y[:, order], atol=1e-5, rtol=1e-5)


# --- the transformer's memory ---------------------------------------------------------------------


@every_transformer
@pytest.mark.parametrize("acting", [False, True], ids=["unroll", "acting"])
def test_empty_slots_are_not_attended_to(kind: Kind, acting: bool) -> None:
    core = kind.make()
    run = partial(act, core, horizon=3) if acting else core
    x, first = inputs(12), firsts("rare", 12)
    for memory, length in (core.initial_state(BATCH), used_state(core, steps=3)):
        littered = memory.clone()
        for b, n in enumerate(length.tolist()):
            littered[b, :, : kind.memory - n] = 1e4
        with torch.no_grad():
            y, end = run(x, first, state=(memory, length))
            y_littered, end_littered = run(x, first, state=(littered, length))
        torch.testing.assert_close(y_littered, y, atol=1e-5, rtol=1e-5)
        assert_same_state(end_littered, end)


@every_transformer
def test_length_counts_the_steps_of_the_episode(kind: Kind) -> None:
    core = kind.make()
    x, first = inputs(13), firsts("rare", 13)
    _, length = used_state(core)
    expected = length.tolist()
    state = used_state(core)
    for t in range(STEPS):
        _, state = core(x[t : t + 1], first[t : t + 1], state)
        expected = [min(kind.memory, 1 if first[t, b] else expected[b] + 1) for b in range(BATCH)]
        assert state[1].tolist() == expected


@pytest.mark.parametrize("name,gate", VARIANTS)
@pytest.mark.parametrize("memory", [1, 3])
@pytest.mark.parametrize("split", [0, 2, 6], ids=["one unroll", "two unrolls", "cut in the window"])
def test_the_window_is_exactly_the_memory(name: str, gate: str, memory: int, split: int) -> None:
    """One layer: a step sees `memory` steps back and not one more, whether they lie in the memory or in the unroll."""
    core = Kind(name, gate, memory).make(layers=1)
    x, none = inputs(14), firsts("never")
    cuts = [split] if split else []
    with torch.no_grad():
        y, _ = in_pieces(core, x, none, core.initial_state(BATCH), cuts)
        for changed in range(STEPS):
            other = x.clone()
            other[changed] += 0.5 * torch.randn_like(other[changed])
            y_other, _ = in_pieces(core, other, none, core.initial_state(BATCH), cuts)
            difference = (y_other - y).abs().amax((1, 2))
            for t in range(STEPS):
                if changed <= t <= changed + memory:
                    assert difference[t] > 1e-4, (changed, t)
                else:
                    assert difference[t] < 1e-6, (changed, t)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_reach_grows_by_the_memory_with_every_layer(layers: int) -> None:
    core = Kind("gtrxl", "gru", 2).make(layers=layers, dtype=torch.float64)
    x, none = inputs(15, dtype=torch.float64), firsts("never")
    y, _ = core(x, none, core.initial_state(BATCH))
    other = x.clone()
    other[1] += torch.randn_like(other[1])
    y_other, _ = core(other, none, core.initial_state(BATCH))
    seen = (y_other - y).abs().amax((1, 2)) > 1e-12
    assert seen.tolist() == [1 <= t <= 1 + 2 * layers for t in range(STEPS)]


@every_recurrent
def test_no_gradient_into_the_memory(kind: Kind) -> None:
    """The memory that an unroll left behind is data to the next one: its loss stops at the cut."""
    core = kind.make()
    x, later = inputs(16).requires_grad_(), inputs(17).requires_grad_()
    _, state = core(x, firsts("never"), core.initial_state(BATCH))
    assert not any(part.requires_grad for part in state)
    y, end = core(later, firsts("never"), state)
    assert not any(part.requires_grad for part in end)
    y.square().sum().backward()
    assert x.grad is None and later.grad.any()


def test_gradients_flow_between_the_steps_of_an_unroll() -> None:
    """Only the memory is held: within the unroll an earlier input has its share in a later output's gradient."""
    transformers = Kind("trxl", memory=3), Kind("trxl-i", memory=3), Kind("gtrxl", "gru", 3)
    for kind in (*transformers, *OTHERS):
        core = kind.make()
        x = inputs(18).requires_grad_()
        y, _ = core(x, firsts("never"), core.initial_state(BATCH))
        (y[5] * torch.randn(BATCH, SIZE)).sum().backward()
        assert (x.grad[2:6].abs().amax((1, 2)) > 1e-6).all()
        assert not x.grad[6:].any()


@every("kind", [*OTHERS, *(kind for kind in TRANSFORMERS if kind.memory == 3)])
def test_gradients_by_finite_differences(kind: Kind) -> None:
    """Check gradients to inputs and parameters, from a used memory, with an episode that begins in the middle."""
    small = 4
    torch.manual_seed(0)
    sizes = dict(embedding=small, layers=2, heads=2, key_size=2, mlp_size=3, memory=2)
    core = make_core(NetworkConfig(core=kind.name, gate=kind.gate, **sizes)).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    first = torch.zeros(3, 2, dtype=torch.bool)
    first[1, 1] = True
    warm = torch.randn(2, 2, small, dtype=torch.float64)
    with torch.no_grad():
        _, state = core(warm, torch.zeros(2, 2, dtype=torch.bool), core.initial_state(2))
    x = torch.randn(3, 2, small, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in core.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in core.parameters()]

    def run(x, *values):
        return torch.func.functional_call(core, dict(zip(names, values, strict=True)), (x, first, state))[0]

    assert torch.autograd.gradcheck(run, (x, *values))


# --- identity at initialisation -------------------------------------------------------------------


def close_sub_blocks(core: TransformerCore) -> None:
    """Sub-blocks that give exactly zero, and gates with no opinion but their bias."""
    with torch.no_grad():
        for layer in core.layers:
            layer.attention.output.weight.zero_()
            layer.mlp[2].weight.zero_()
            layer.mlp[2].bias.zero_()
            for name, parameter in layer.named_parameters():
                if "_gate." in name and not name.endswith("bias"):
                    parameter.zero_()


def fresh(name: str, gate: str = "gru", bias: float = 2.0, layers: int = 2, size: int = 64) -> TransformerCore:
    torch.manual_seed(0)
    return TransformerCore(size, layers, 4, 16, 128, 5, name, gate, bias)


@pytest.mark.parametrize(
    "name,gate,passed",
    [
        ("trxl-i", "gru", 1.0),
        ("gtrxl", "gru", 1 / (1 + math.exp(-2.0))),
        ("gtrxl", "input", 0.5),
        ("gtrxl", "output", 1.0),
        ("gtrxl", "highway", 1 / (1 + math.exp(-2.0))),
        ("gtrxl", "sigtanh", 1.0),
    ],
)
def test_silent_sub_blocks_leave_the_skip_stream(name: str, gate: str, passed: float) -> None:
    core = fresh(name, gate)
    close_sub_blocks(core)
    x = torch.randn(STEPS, BATCH, 64)
    y, _ = core(x, firsts("rare"), core.initial_state(BATCH))
    torch.testing.assert_close(y, passed**4 * x)  # two layers, two gates each


def test_gtrxl_is_near_identity_when_made() -> None:
    """b_g = 2 passes 88% of x at each gate, so a fresh GTrXL answers to the present input; b_g = 0 does so less."""
    x = torch.randn(STEPS, BATCH, 64, generator=torch.Generator().manual_seed(0))

    def likeness(bias: float, layers: int) -> float:
        core = fresh("gtrxl", bias=bias, layers=layers)
        y, _ = core(x, firsts("at the start"), core.initial_state(BATCH))
        return torch.nn.functional.cosine_similarity(x, y, dim=-1).mean().item()

    assert likeness(2.0, 1) > 0.95 and likeness(2.0, 2) > 0.85
    assert likeness(0.0, 2) < likeness(2.0, 2) < likeness(4.0, 2)
    core = fresh("gtrxl", layers=1)
    y, _ = core(x, firsts("at the start"), core.initial_state(BATCH))
    share = (x * y).sum() / (x * x).sum()
    assert share.item() == pytest.approx(0.88**2, abs=0.08)


# --- from a configuration -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_make_core(name: str) -> None:
    config = NetworkConfig(
        core=name, gate="output", gate_bias=1.0, embedding=SIZE, layers=3, heads=2, key_size=5, mlp_size=11, memory=4
    )
    core = make_core(config)
    kinds = {"feedforward": FeedforwardCore, "lstm": LSTMCore, "gru": GRUCore, "mingru": MinGRUCore}
    assert isinstance(core, kinds.get(name, TransformerCore))
    assert core.output_size == SIZE
    y, state = core(inputs(0), firsts("random"), core.initial_state(BATCH))
    assert y.shape == (STEPS, BATCH, SIZE)
    if isinstance(core, MinGRUCore):
        assert state[0].shape == (BATCH, 3, SIZE)
        assert core.layers[0].mlp[0].weight.shape == (11, SIZE)
    if isinstance(core, TransformerCore):
        assert state[0].shape == (BATCH, 3, 4, SIZE)
        assert core.layers[0].attention.content_bias.shape == (2, 5)
        assert core.layers[0].mlp[0].weight.shape == (11, SIZE)
        gates = [key for key, _ in core.named_parameters() if "gate" in key]
        assert bool(gates) == (name == "gtrxl")
        if name == "gtrxl":
            torch.testing.assert_close(core.layers[2].mlp_gate.bias, torch.ones(SIZE))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_recurrent_core_can_be_learned_from_in_evaluation_mode_on_a_gpu(name: str) -> None:
    """cuDNN has no backward pass otherwise; dropout, a module beside it, follows the mode."""
    core = NAMED[name](SIZE, 5, dropout=0.5).eval()
    assert getattr(core, name).training and not core.dropout.training
    assert core.train().dropout.training
