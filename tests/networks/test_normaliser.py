"""Running moments of observations: against numpy on everything that was seen, and what they do to a network."""

import numpy as np
import torch

from networks.actor_critic import ActorCritic
from networks.config import NetworkConfig
from networks.distributions import Choice
from networks.normaliser import MOST, Normaliser
from networks.torsos import Part
from runners.acting.weights import flatten_weights, load_weights


def test_moments_are_those_of_all_rows_that_count() -> None:
    rng = np.random.default_rng(0)
    normaliser, seen = Normaliser([True, False, True]), []
    for size in (1, 7, 300):
        x, mask = rng.normal([1000, -3, 1e-3], [100, 2, 1e-5], (size, 3)), rng.random(size) < 0.7
        normaliser.update(torch.tensor(x), torch.tensor(mask))
        seen.append(x[mask])
    rows = np.concatenate(seen)
    np.testing.assert_allclose(normaliser.mean, rows.mean(0), rtol=1e-9)
    np.testing.assert_allclose((normaliser.square / normaliser.count).sqrt(), rows.std(0), rtol=1e-6)
    x = torch.tensor(rows[:5], dtype=torch.float64)
    expected = ((rows[:5] - rows.mean(0)) / rows.std(0)).clip(-MOST, MOST)
    expected[:, 1] = rows[:5, 1]
    np.testing.assert_allclose(normaliser(x), expected, rtol=1e-6)


def test_several_processes_have_the_moments_of_one() -> None:
    x, mask = torch.randn(40, 2) * 5 + 30, torch.rand(40) < 0.8
    one, parts = Normaliser([True, True]), [Normaliser([True, True]) for _ in range(2)]
    one.update(x, mask)
    halves = [(x[:20], mask[:20]), (x[20:], mask[20:])]
    sums: list[torch.Tensor] = []
    # Each process adds what the others would send: first collected, then given back in the same order.
    for wanted in range(3):
        totals = []
        for part, (rows, valid) in zip(parts, halves, strict=True):
            calls: list[torch.Tensor] = []

            def total(value: torch.Tensor, calls: list[torch.Tensor] = calls) -> torch.Tensor:
                calls.append(value)
                return sums[len(calls) - 1] if len(calls) <= len(sums) else value

            twin = Normaliser([True, True])
            twin.load_state_dict(part.state_dict())
            twin.update(rows, valid, total)
            totals.append(calls[wanted])
        sums.append(sum(totals))
    for part, (rows, valid) in zip(parts, halves, strict=True):
        given = iter(sums)
        part.update(rows, valid, lambda _, given=given: next(given))
        for name, value in one.state_dict().items():
            torch.testing.assert_close(part.state_dict()[name], value)


def test_far_values_are_cut_and_an_entry_that_never_changes_is_left_in_its_units() -> None:
    normaliser = Normaliser([True, True])
    normaliser.update(torch.tensor([[0.0, 7.0], [2.0, 7.0]]), torch.ones(2, dtype=torch.bool))
    assert normaliser(torch.tensor([[1e6, 8.0]])).tolist() == [[MOST, 1.0]]
    fresh = Normaliser([True])
    fresh.update(torch.zeros(3, 1), torch.zeros(3, dtype=torch.bool))
    assert fresh(torch.tensor([[0.5]])).tolist() == [[0.5]], "nothing seen"


def network(parts: list[Part]) -> ActorCritic:
    torch.manual_seed(0)
    config = NetworkConfig(core="feedforward", embedding=16, torso_hidden=32, head_hidden=16)
    return ActorCritic(config, parts, Choice(3))


def test_units_do_not_matter_to_a_network_that_normalises_and_the_moments_travel_with_its_weights() -> None:
    vector = Part("vector", (4,), normalised=True)
    parts = [vector, Part("onehot", (3,)), Part("mask", (3,))]
    plain, scaled, actor = (network(parts) for _ in range(3))
    x = torch.cat([torch.randn(6, 5, 4), torch.eye(3)[torch.randint(3, (6, 5))], torch.ones(6, 5, 3)], -1)
    far = torch.cat([x[..., :4] * 100 + 1000, x[..., 4:]], -1)
    plain.fit_input(x)
    scaled.fit_input(far)
    load_weights(actor, flatten_weights(scaled))
    zeros, first = torch.zeros(6, 5), torch.zeros(6, 5, dtype=torch.bool)
    expected = plain(x, zeros, zeros, first, ()).policy.logits
    torch.testing.assert_close(scaled(far, zeros, zeros, first, ()).policy.logits, expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(actor(far, zeros, zeros, first, ()).policy.logits, expected, atol=1e-5, rtol=1e-3)
    before = plain.torso.vector.normaliser.count.clone()
    plain(x, zeros, zeros, first, ())
    assert plain.torso.vector.normaliser.count == before, "acting shows it nothing"
    assert not network([Part("onehot", (3,))]).normalises
