"""Checkpoints: the same state back, bit for bit; never half a file; a bad file is named in one line."""

import errno
import math
import os
import pickle
import tempfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from runners.records.checkpoint import UNCHECKED, VERSION, CheckpointError, Checkpoints, load, save


def assert_same(a, b, place="state"):
    assert type(a) is type(b), place
    if isinstance(a, dict):
        assert list(a) == list(b), place
        for key in a:
            assert_same(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{place}.{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b), place
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), place
    else:
        assert a == b or math.isnan(a) and math.isnan(b), place


def round_trip(state):
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/x.safetensors", state)
        return load(f"{folder}/x.safetensors").state


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_everything_a_state_may_hold_comes_back():
    state = {
        "a.b": torch.randn(3, 4),
        "a": {"b": torch.randn(3, 4).bfloat16()},
        "params": {0: {"step": torch.tensor(7.0)}, 1: {"step": torch.tensor(8, dtype=torch.int64)}},
        "tensors": [torch.ones(2, dtype=torch.bool), torch.zeros(0, 5), torch.tensor(1.5, dtype=torch.float64)],
        "views": (torch.arange(12).view(3, 4).t(), torch.zeros(1).expand(6), torch.arange(9, dtype=torch.uint8)[::2]),
        "arrays": [np.arange(5, dtype=np.uint32), np.array(2.5), np.asfortranarray(np.random.rand(3, 2))],
        "scalars": (np.float64(0.1), np.float32(0.1), np.int64(-3), np.bool_(True)),
        "numbers": [0, -1, 2**200, 0.1, 1e-320, math.inf, -math.inf, math.nan, True, False, None],
        "texts": ["", "naïve 'quoted' \n line", {}, [], ()],
        "looks like a tag": {"tensor": "a.b", "tuple": [1], "dict": 3},
    }
    assert_same(round_trip(state), state)


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_numpy_generators_continue_where_they_were(bits):
    generator = np.random.Generator(bits(3))
    generator.normal(size=5)
    copy = np.random.Generator(bits(0))
    copy.bit_generator.state = round_trip(generator.bit_generator.state)
    np.testing.assert_array_equal(copy.integers(2**63, size=50), generator.integers(2**63, size=50))


def test_torch_training_continues_where_it_was(tmp_path):
    def make():
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4))
        return model, torch.optim.Adam(model.parameters(), amsgrad=True), torch.Generator()

    def train(model, optimizer, generator, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(16, 4, generator=generator)).square().mean().backward()
            optimizer.step()

    def state(parts):
        model, optimizer, generator = parts
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state()}

    parts, resumed = make(), make()
    train(*parts, 3)
    save(tmp_path / "x.safetensors", state(parts))
    saved = load(tmp_path / "x.safetensors").state
    resumed[0].load_state_dict(saved["model"])
    resumed[1].load_state_dict(saved["optimizer"])
    resumed[2].set_state(saved["generator"])
    train(*parts, 3)
    train(*resumed, 3)
    for name, tensor in parts[0].state_dict().items():
        assert torch.equal(tensor, resumed[0].state_dict()[name]), name


def test_tensors_that_share_memory_are_kept_apart():
    tied = torch.randn(4)
    saved = round_trip({"a": tied, "b": tied, "slice": tied[1:]})
    saved["a"].zero_()
    assert torch.equal(saved["b"], tied) and torch.equal(saved["slice"], tied[1:])


def test_the_file_is_plain_safetensors_under_dotted_names(tmp_path):
    save(tmp_path / "x.safetensors", {"model": {"core.weight": torch.ones(2)}, "duals": [torch.zeros(1)], "n": 3})
    assert set(load_file(tmp_path / "x.safetensors")) == {"model.core.weight", "duals.0"}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {(1, 2): 3}, np.array(["text"]), 1j])
def test_what_cannot_be_saved_is_refused_by_its_place(tmp_path, value):
    with pytest.raises(TypeError, match="outer.1"):
        save(tmp_path / "x.safetensors", {"outer": [0, value]})
    assert not any(tmp_path.iterdir())


def test_every_truncation_and_every_stranger_is_one_clear_line(tmp_path):
    path = tmp_path / "x.safetensors"
    save(path, {"w": torch.randn(8), "n": list(range(50))})
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as error:
            load(path)
        assert str(path) in one_line(error)
    strangers = [pickle.dumps({"w": 1}), b"\0" * len(whole), b"hello\nworld" * 100, whole + b"more"]
    for stranger in strangers:
        path.write_bytes(stranger)
        with pytest.raises(CheckpointError) as error:
            load(path)
        assert str(path) in one_line(error)


def test_foreign_safetensors_other_versions_missing_files_and_folders_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    cases = [
        (lambda: save_file({"w": torch.ones(2)}, path), "no checkpoint of this suite"),
        (lambda: save_file({}, path, {"format": "gempi-checkpoint", "version": "99"}), "version 99"),
        (
            lambda: save_file({}, path, {"format": "gempi-checkpoint", "version": "1"}),
            f"version 1; this code reads {UNCHECKED} and {VERSION}",
        ),
        (lambda: save_file({}, path, {"format": "gempi-checkpoint", "version": VERSION}), "damaged"),
        (path.unlink, "no checkpoint at"),
        (path.mkdir, "cannot read"),
    ]
    for prepare, expected in cases:
        prepare()
        with pytest.raises(CheckpointError) as error:
            load(path)
        assert expected in one_line(error) and str(path) in str(error.value)


def test_a_file_of_before_the_checksum_is_read_with_a_line(tmp_path):
    path = tmp_path / "step_000000000007.safetensors"
    metadata = {"format": "gempi-checkpoint", "version": UNCHECKED, "step": "7", "state": '{"dict": [["n", 3]]}'}
    save_file({"w": torch.ones(2)}, path, metadata)
    loaded = Checkpoints(tmp_path).latest()
    assert loaded[:2] == (7, {"n": 3}) and "\n" not in loaded.warning
    assert loaded.warning == f"{load(path).warning}; continuing from {path.name}" and "no checksum" in loaded.warning


def test_one_bit_cannot_make_a_file_pass_for_one_of_before_the_checksum(tmp_path):
    path = tmp_path / "x.safetensors"
    save(path, {"w": torch.randn(8)})
    whole = path.read_bytes()
    for changed in (b'"version":"2"', b'"version":"3"'):
        for digits in (b'"checksum"', b'"cheaksum"'):
            altered = whole.replace(b'"version":"3"', changed).replace(b'"checksum"', digits)
            path.write_bytes(altered)
            if altered != whole and (changed, digits) != (b'"version":"2"', b'"cheaksum"'):
                with pytest.raises(CheckpointError, match="damaged"):
                    load(path)


def test_what_was_loaded_owns_its_memory(tmp_path):
    path = tmp_path / "x.safetensors"
    state = {"w": torch.randn(100), "a": np.random.rand(50)}
    save(path, state)
    loaded = load(path).state
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(loaded, state)
    loaded["w"].zero_()
    loaded["a"][:] = 1


def test_a_damaged_best_is_named_and_the_newest_taken(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    best = checkpoints.save_best(1, {"n": "best"})
    best.write_bytes(best.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        checkpoints.best()
    newest = checkpoints.save_last(2, {"n": "newest"})
    loaded = checkpoints.best()
    assert loaded.state == {"n": "newest"} and str(best) in loaded.warning and newest.name in loaded.warning


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save(path, {"n": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left.*x.safetensors"):
        save(path, {"n": 2})
    assert load(path).state == {"n": 1} and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_folder_of_a_run_is_not_made_anew_by_a_checkpoint(tmp_path):
    """Without its config.json nothing could continue it."""
    with pytest.raises(FileNotFoundError, match="removed/checkpoints"):
        Checkpoints(tmp_path / "removed/checkpoints").save_last(1, {})
    assert not any(tmp_path.iterdir())


def test_the_last_three_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save_last(1, {})
    (tmp_path / "checkpoints" / ".step_000000000002.safetensors.gempi-tmp").write_bytes(b"left by a kill")
    for step in (5, 100, 20_000, 123_456):
        checkpoints.save_last(step, {"n": step})
    checkpoints.save_best(100, {"n": "best"})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.safetensors",
        "step_000000000100.safetensors",
        "step_000000020000.safetensors",
        "step_000000123456.safetensors",
    ]
    latest, best = checkpoints.latest(), checkpoints.best()
    assert (latest.step, latest.state, latest.warning) == (123_456, {"n": 123_456}, "")
    assert (best.step, best.state) == (100, {"n": "best"})


def test_a_truncated_newest_falls_back_with_a_warning_and_is_replaced(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        newest = checkpoints.save_last(step, {"n": step})
    newest.write_bytes(newest.read_bytes()[:-1])
    latest = checkpoints.latest()
    assert latest.step == 2 and str(newest) in latest.warning and "\n" not in latest.warning
    # Resumed from step 2, the run saves before the broken file's step: what it saves must survive, the broken must not.
    (tmp_path / "step_000000000009.safetensors").write_bytes(b"")
    checkpoints.save_last(2, {"n": "again"})
    assert checkpoints.latest()[1:2] == ({"n": "again"},) and not newest.exists()


def test_an_empty_folder_and_one_where_nothing_loads_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for content in (None, b""):
        if content is not None:
            (tmp_path / "step_000000000001.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            checkpoints.latest()
        assert str(tmp_path) in one_line(error)
    checkpoints.save_last(1, {})
    with pytest.raises(
        CheckpointError, match="best.safetensors: no evaluation was made yet.* take --checkpoint latest"
    ):
        checkpoints.best()
