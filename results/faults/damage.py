"""Damage to files, as disks and copies do it, and a count of those that are then taken for whole."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runners.errors import RunError
from runners.records.checkpoint import Checkpoints
from runners.records.folders import check_whole, written_whole

PAGE = 4096
Damage = Callable[[bytearray, np.random.Generator], bytearray]


def truncated(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(len(data))]


def flipped(data: bytearray, rng: np.random.Generator, within: slice = slice(None)) -> bytearray:
    """Flip one to eight bits somewhere `within`."""
    places = rng.choice(np.arange(len(data))[within], size=rng.integers(1, 9), replace=False)
    for place in places:
        data[place] ^= 1 << rng.integers(8)
    return data


def flipped_in_header(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Flip bits in the header of a safetensors file."""
    return flipped(data, rng, slice(8 + int.from_bytes(data[:8], "little")))


def zeroed(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Write zeros over a page."""
    start = int(rng.integers(max(1, len(data) - PAGE)))
    data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))
    return data


def lengthened(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data + rng.bytes(rng.integers(1, PAGE))


KINDS: dict[str, Damage] = {
    "cut short": truncated,
    "bits flipped": flipped,
    "bits of the header flipped": flipped_in_header,
    "4 KiB zeroed": zeroed,
    "bytes added": lengthened,
}


def damaged(path: Path, kind: str, rng: np.random.Generator) -> None:
    """Damage the file at `path` until it differs from what it was."""
    whole = path.read_bytes()
    data = KINDS[kind](bytearray(whole), rng)
    while data == whole:
        data = KINDS[kind](bytearray(whole), rng)
    path.write_bytes(data)


def try_checkpoints(state: Any, count: int, seed: int = 0) -> Counter[tuple[str, str, str]]:
    """Damage the newest and the best checkpoint of a run, in turn, `count` times in all, and load it. Count (file, kind
    of damage, "fell back" or "taken for whole")."""
    rng, outcomes = np.random.default_rng(seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder)
        checkpoints.save_last(1, {"before": torch.arange(3)})
        newest, best = checkpoints.save_last(2, state), checkpoints.save_best(2, state)
        for i in range(count):
            path, load = [(newest, checkpoints.latest), (best, checkpoints.best)][i % 2]
            kind = list(KINDS)[i // 2 % len(KINDS)]
            whole = path.read_bytes()
            damaged(path, kind, rng)
            loaded = load()
            fell_back = loaded.path != path and str(path) in loaded.warning
            outcomes[path.stem.partition("_")[0], kind, "fell back" if fell_back else "taken for whole"] += 1
            path.write_bytes(whole)
    return outcomes


def try_folders(state: dict[str, torch.Tensor], count: int, seed: int = 0) -> Counter[tuple[str, str, str]]:
    """Damage the files of a folder as a language model is saved in, `count` times, and check it. Count (file, kind of
    damage, "refused" or "taken for whole")."""
    rng, outcomes = np.random.default_rng(seed), Counter()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        with written_whole(folder) as filling:
            torch.save(state, filling / "weights.pt")
            (filling / "config.json").write_text('{"layers": 2, "width": 64}' + " " * PAGE)
        files = sorted(folder.iterdir())
        for i in range(count):
            path, kind = files[i % len(files)], [k for k in KINDS if "header" not in k][i // len(files) % 4]
            whole = path.read_bytes()
            damaged(path, kind, rng)
            try:
                check_whole(folder)
                outcomes["folder", kind, "taken for whole"] += 1
            except RunError:
                outcomes["folder", kind, "refused"] += 1
            path.write_bytes(whole)
    return outcomes
