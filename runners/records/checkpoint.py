"""Checkpoints: a nested state in one safetensors file, which any safetensors reader opens and which runs no code.

Tensors and arrays are stored under their dotted path in the state (`model.core.layers.0.weight`); everything else, with
the structure, is one JSON string in the file's metadata.

The metadata also hold a CRC-32 of the whole file, computed with zeros for its own eight digits.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from runners.errors import RunError
from runners.records.files import remove_strays, write_atomically

FORMAT, VERSION, UNCHECKED = "gempi-checkpoint", "3", "2"
"""Version of the format; UNCHECKED is the same without a checksum."""
UNKNOWN = "00000000"
CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{8})"')
"""Pattern of the checksum in a file's header. It matches once, as quotes in other texts are escaped there."""


class CheckpointError(RunError):
    """Error in a checkpoint: one line that names the file, what is wrong with it, and what would be right."""


class Loaded(NamedTuple):
    """A checkpoint that was read; `warning` is a line about files that could not be read or checked, or empty."""

    step: int
    state: Any
    path: Path
    warning: str


def save(path: str | os.PathLike, state: Any, step: int = 0) -> None:
    """Write `state` atomically to `path`, with the number of steps after which it was reached.

    `state` nests dicts (keys: str or int), lists and tuples of tensors, numpy arrays and scalars, int of any size,
    float, bool, str and None. Raise OSError, which names `path`, if the file cannot be written, TypeError for other
    content.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, "", tensors)
    metadata = {"format": FORMAT, "version": VERSION, "step": str(step), "state": json.dumps(tree), "checksum": UNKNOWN}
    data = safetensors.torch.save(tensors, metadata)
    before, after = _around_checksum(data)
    write_atomically(path, before, _checksum(before, after), after)


@contextmanager
def fits(path: Path, why: str = "it is of another run or another version") -> Iterator[None]:
    """Turn the errors of loading a state from `path` that does not fit into a CheckpointError that says `why`."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not fit this run's config.json: {why}") from error


def load(path: str | os.PathLike) -> Loaded:
    """Read a checkpoint, with tensors on the CPU; subclasses of dict and tuple come back as dict and tuple.

    The tensors own their memory: a later change of the file does not change them. Raise CheckpointError if `path` is
    missing, damaged, or not a checkpoint.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {path}: expected a .safetensors file from a run's checkpoints/"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    try:
        metadata = _header(data).get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is a safetensors file but no checkpoint of this suite (no {FORMAT!r} tag)")
        version, warning = metadata["version"], ""
        if version not in (VERSION, UNCHECKED):
            raise CheckpointError(f"{path} has checkpoint version {version}; this code reads {UNCHECKED} and {VERSION}")
        if version == VERSION or "checksum" in metadata:  # else one flipped bit, from 3 to 2, would disable the check
            before, after = _around_checksum(data)
            if metadata["checksum"].encode() != _checksum(before, after):
                raise ValueError("its content does not have the checksum that it was saved with")
        else:
            warning = f"{path} is of version {UNCHECKED}, which has no checksum: damage to it cannot be found"
        state = _decode(json.loads(metadata["state"]), safetensors.torch.load(data))
        return Loaded(int(metadata["step"]), state, path, warning)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged, truncated or no checkpoint ({error}); expected a whole .safetensors file of this suite"
        ) from error


def _header(data: bytes) -> dict[str, Any]:
    """Return the header of a safetensors file, whose length is in the first eight bytes."""
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= len(data) - 8:
        raise ValueError(f"its header is said to have {length} bytes, and the file has {len(data)}")
    return json.loads(data[8 : 8 + length])


def _around_checksum(data: bytes) -> tuple[memoryview, memoryview]:
    """Return the parts of a file before and after the digits of its checksum."""
    start, end = CHECKSUM.search(data).span(1)
    return memoryview(data)[:start], memoryview(data)[end:]


def _checksum(before: memoryview, after: memoryview) -> bytes:
    digits = zlib.crc32(after, zlib.crc32(UNKNOWN.encode(), zlib.crc32(before)))
    return f"{digits:08x}".encode()


class Checkpoints:
    """The checkpoints of one run: the last `keep` by step (`step_000000123456.safetensors`) and `best.safetensors`."""

    def __init__(self, folder: str | os.PathLike, keep: int = 3):
        self.folder, self.keep = Path(folder), keep

    def save_last(self, step: int, state: Any) -> Path:
        """Save `state` as the newest checkpoint, then remove all but the last `keep`.

        Files of later steps are removed, too: the run was resumed from an earlier one, and has replaced them.
        """
        path = self.folder / f"step_{step:012d}.safetensors"
        self._save(path, step, state)
        steps = self._steps()
        kept = [known for known in sorted(steps) if known <= step][-self.keep :]
        for known in steps.keys() - set(kept):
            steps[known].unlink()
        return path

    def save_best(self, step: int, state: Any) -> Path:
        path = self.folder / "best.safetensors"
        self._save(path, step, state)
        return path

    @property
    def newest(self) -> int:
        """Return the step of the newest checkpoint, whether or not it can be read; 0 if there is none."""
        return max(self._steps(), default=0)

    def latest(self) -> Loaded:
        """Return the newest checkpoint that can be read; its `warning` names newer ones that cannot."""
        steps = self._steps()
        if not steps:
            raise CheckpointError(
                f"no checkpoint in {self.folder}: expected step_*.safetensors, which a run writes after its first batch"
            )
        failures = []
        for step in sorted(steps, reverse=True):
            try:
                loaded = load(steps[step])
            except CheckpointError as error:
                failures.append(str(error))
            else:
                if loaded.warning:
                    failures.append(loaded.warning)
                if failures:
                    failures.append(f"continuing from {loaded.path.name}")
                return loaded._replace(warning="; ".join(failures))
        raise CheckpointError(f"no checkpoint in {self.folder} can be read: {failures[0]}")

    def has_best(self) -> bool:
        """Return whether there was an evaluation while training."""
        return (self.folder / "best.safetensors").exists()

    def best(self) -> Loaded:
        """Return the checkpoint of the best evaluation while training, or the newest readable one, with a `warning`, if
        that is damaged; CheckpointError if there was no evaluation."""
        path = self.folder / "best.safetensors"
        if not path.exists() and self._steps():
            raise CheckpointError(f"no {path}: no evaluation was made yet (--evaluations); take --checkpoint latest")
        try:
            return load(path)
        except CheckpointError as error:
            if not self._steps():
                raise
            last = self.latest()
            return last._replace(warning="; ".join([str(error), last.warning or f"taking {last.path.name}"]))

    def _save(self, path: Path, step: int, state: Any) -> None:
        self.folder.mkdir(exist_ok=True)  # without parents: if the run's folder was removed, the run cannot be resumed
        remove_strays(self.folder)
        save(path, state, step)

    def _steps(self) -> dict[int, Path]:
        names = {path: re.fullmatch(r"step_(\d+)\.safetensors", path.name) for path in self.folder.glob("step_*")}
        return {int(match[1]): path for path, match in names.items() if match}


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON; all containers but lists become {kind: content}, so that every JSON object is a tag."""

    def store(tensor: Tensor, kind: str) -> dict[str, str]:
        name = place or "state"
        while name in tensors:  # {"a.b": x, "a": {"b": y}} has two tensors of one path
            name += "'"
        tensors[name] = tensor
        return {kind: name}

    def inside(key: int | str, item: Any) -> Any:
        return _encode(item, f"{place}.{key}" if place else str(key), tensors)

    match value:
        case None | bool() | str():
            return value
        case Tensor():
            # A copy: safetensors refuses tensors that share memory, as tied weights and slices do.
            return store(value.detach().cpu().clone(memory_format=torch.contiguous_format), "tensor")
        case np.ndarray() | np.generic() if value.dtype.kind in "biuf":  # before float: np.float64 is one
            kind = "array" if isinstance(value, np.ndarray) else "scalar"
            return store(torch.from_numpy(np.array(value, order="C")), kind)
        case int() | float() if type(value) in (int, float):
            return value
        case list():
            return [inside(i, item) for i, item in enumerate(value)]
        case tuple():
            return {"tuple": [inside(i, item) for i, item in enumerate(value)]}
        case dict() if all(type(key) in (str, int) for key in value):
            return {"dict": [[key, inside(key, item)] for key, item in value.items()]}
        case _:
            raise TypeError(f"a checkpoint cannot hold {place or 'a state'} of type {type(value).__name__}")


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    match tree:
        case list():
            return [_decode(item, tensors) for item in tree]
        case {"tuple": items}:
            return tuple(_decode(item, tensors) for item in items)
        case {"dict": items}:
            return {key: _decode(item, tensors) for key, item in items}
        case {"tensor": name}:
            return tensors[name]
        case {"array": name}:
            return tensors[name].numpy()
        case {"scalar": name}:
            return tensors[name].numpy()[()]
        case _:
            return tree
