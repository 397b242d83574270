"""Faults of files: damage is seen, and named, wherever it is."""

from collections import Counter

import pytest
import torch

from results.faults.damage import KINDS, try_checkpoints, try_folders


def state() -> dict:
    """As a small agent's: weights, moments of which many are 0, generators, numbers."""
    network = torch.nn.Sequential(torch.nn.Linear(9, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(8, 9)).square().mean().backward()
    optimizer.step()
    generator = torch.Generator().get_state()
    return {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator, "updates": 3}


def test_none_of_400_damaged_files_is_taken_for_whole() -> None:
    found = try_checkpoints(state(), 300) + try_folders(state()["network"], 100)
    assert found.total() == 400
    totals = Counter(what for *_, what in found.elements())
    assert totals == {"fell back": 300, "refused": 100}
    assert {kind for file, kind, _ in found if file == "step"} == set(KINDS)
    assert {file for file, *_ in found} == {"step", "best", "folder"}


def test_a_file_without_its_checksum_would_be_taken_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial sees what it is for."""
    monkeypatch.setattr("runners.records.checkpoint._checksum", lambda *_: b"00000000")
    monkeypatch.setattr("runners.records.folders._checksum", lambda _: "00000000")
    found = Counter(
        what for *_, what in (try_checkpoints(state(), 100) + try_folders(state()["network"], 20)).elements()
    )
    assert found["taken for whole"] > 20
