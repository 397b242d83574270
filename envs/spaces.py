"""Translation of gymnasium's spaces, which envpool has too, to the parts of an observation and to our actions."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from envs.backend import to_float32
from envs.interface import HUGE, Action, Box, Discrete, EnvError, MultiDiscrete, Part

MOST_VALUES = 4096
"""Length of the longest one-hot vector that a Discrete becomes."""
WIDE = 10.0
"""Bound beyond which observations are normalised."""
SMALLEST_SIDE, MOST_CHANNELS = 8, 16
"""Least pixels of a picture's side, and the most channels that it may have."""
MASK = "action_mask"

Path = tuple[str | int, ...]
Read = Callable[[np.ndarray], np.ndarray]


class Leaf(NamedTuple):
    """A part of an observation: its path and shape in the simulator's, and the function that reads a batch of it."""

    path: Path
    shape: tuple[int, ...]
    part: Part
    read: Read


class Reader:
    """Reader of observations of one space into arrays [N, ...] of `parts`, as `EnvSpec` describes them.

    `symbols` has, for each grid of symbols by its name, how many values each number of a cell may take; parts in
    `ignored` are left out. A part named action_mask is a mask. EnvError for spaces that cannot be read, and for batches
    with values that the space excludes.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        action: Action,
        symbols: Mapping[str, tuple[int, ...]] | None = None,
        ignored: Sequence[str] = (),
    ):
        self._name = name
        self._leaves = [
            Leaf(path, leaf.shape or (), *_part(name, path, leaf, action, symbols or {}))
            for path, leaf in _leaves(space, ignored)
        ]
        if not any(leaf.part.size for leaf in self._leaves if leaf.part.kind != "mask"):
            raise EnvError(f"{name} has an empty observation space: an agent needs something to observe")
        self.parts = tuple(leaf.part for leaf in self._leaves)

    def __call__(self, batch: Any) -> np.ndarray:
        """Read a batch whose leaves are arrays [N, ...], nested as the space is."""
        return self._join([self._read(leaf, np.asarray(_at(batch, leaf.path))) for leaf in self._leaves])

    def stack(self, observations: Sequence[Any]) -> np.ndarray:
        """Read N observations that came one by one."""
        arrays = []
        for leaf in self._leaves:
            try:
                values = np.array([_at(observation, leaf.path) for observation in observations])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise EnvError(f"{self._name}: {_label(leaf.path)} is not what its space says: {error}") from error
            arrays.append(self._read(leaf, values))
        return self._join(arrays)

    def _read(self, leaf: Leaf, values: np.ndarray) -> np.ndarray:
        if values.shape[1:] != leaf.shape or values.dtype.kind not in "fiub":
            found = f"{values.dtype} {values.shape[1:]}"
            raise EnvError(f"{self._name}: {_label(leaf.path)} is {found} where its space says {leaf.shape}")
        return leaf.read(values)

    def _join(self, arrays: list[np.ndarray]) -> np.ndarray:
        if len(arrays) == 1:
            return arrays[0]
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1, dtype=np.float32)


def _leaves(space: Space, ignored: Sequence[str], path: Path = ()) -> Iterator[tuple[Path, Space]]:
    """Yield the spaces that hold no others, with the path to each."""
    if _name(path) in ignored:
        return
    if isinstance(space, spaces.Dict):
        children = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        children = list(enumerate(space.spaces))
    else:
        yield path, space
        return
    for key, child in children:
        yield from _leaves(child, ignored, (*path, key))


def _at(observation: Any, path: Path) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _name(path: Path) -> str:
    return "/".join(map(str, path))


def _label(path: Path) -> str:
    return f"observation {_name(path)!r}" if path else "the observation"


def _part(name: str, path: Path, space: Space, action: Action, symbols: Mapping) -> tuple[Part, Read]:
    """Return the part that one leaf becomes, and the function that reads a batch of it."""
    own, what = _name(path), f"{name}: {_label(path)}"
    shape, size = space.shape or (), math.prod(space.shape or ())
    if MASK in path[:-1] and not isinstance(action, Box):
        raise EnvError(f"{what} is a part of a mask: give the mask as one MultiBinary({choices_of(action)})")
    if path and path[-1] == MASK and not isinstance(action, Box):
        if size != choices_of(action):
            raise EnvError(f"{what} has {size} entries, but actions have {choices_of(action)} choices")
        return Part(own, "mask", (size,)), lambda values: _flat(values != 0)
    if isinstance(space, spaces.Discrete):
        return _onehot(own, what, [space.n], [space.start])
    if isinstance(space, spaces.MultiDiscrete):
        return _onehot(own, what, space.nvec.ravel(), space.start.ravel())
    if isinstance(space, spaces.MultiBinary):
        return Part(own, "onehot", (size,)), _flat
    if not isinstance(space, spaces.Box):
        raise EnvError(
            f"{what} is a {type(space).__name__}: only numbers can be observed, in Box, Discrete and the like"
        )
    if own in symbols and len(shape) == 3 and shape[-1] == len(symbols[own]):
        return Part(own, "symbols", shape, tuple(symbols[own])), _symbols(what, np.array(symbols[own]))
    if space.dtype == np.uint8 and (axes := _picture_axes(shape)) and space.high.max() > 127:
        sides = tuple(([1, *shape] if len(shape) == 2 else shape)[axis] for axis in axes)
        return Part(own, "picture", sides), lambda values: _picture(what, values, axes)
    unbounded = not (np.abs([space.low.astype(float), space.high.astype(float)]) <= WIDE).all()
    return Part(own, "vector", (size,), unbounded=unbounded), _flat


def _flat(values: np.ndarray) -> np.ndarray:
    return to_float32(values.reshape(len(values), -1))


def _onehot(own: str, what: str, sizes: Sequence[int], starts: Sequence[int]) -> tuple[Part, Read]:
    sizes, starts = np.array(sizes, np.int64), np.array(starts, np.int64)
    if sizes.max() > MOST_VALUES:
        raise EnvError(f"{what} has {sizes.max()} values: a one-hot vector of more than {MOST_VALUES} is too long")
    offsets = np.cumsum(sizes) - sizes
    total = int(sizes.sum())

    def read(values: np.ndarray) -> np.ndarray:
        index = values.reshape(len(values), -1).astype(np.int64) - starts
        if ((index < 0) | (index >= sizes)).any():
            wrong = ((index < 0) | (index >= sizes)).any(1)
            raise EnvError(f"{what} is {values[wrong][0]}, which its space rules out")
        onehot = np.zeros((len(values), total), np.float32)
        np.put_along_axis(onehot, index + offsets, 1.0, axis=1)
        return onehot

    return Part(own, "onehot", (total,)), read


def _symbols(what: str, counts: np.ndarray) -> Read:
    def read(values: np.ndarray) -> np.ndarray:
        if (values >= counts).any():
            raise EnvError(f"{what} holds symbols up to {values.max((0, 1, 2)).tolist()}, not below {counts.tolist()}")
        return values.astype(np.uint8, copy=False)

    return read


def _picture_axes(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return the axes of channels, height and width of a picture, [H, W] taken as [1, H, W]; None if it is none."""
    if len(shape) == 2:
        return (0, 1, 2) if min(shape) >= SMALLEST_SIDE else None
    if len(shape) != 3:
        return None
    for channels, height, width in sorted(((2, 0, 1), (0, 1, 2)), key=lambda axes: shape[axes[0]]):
        if shape[channels] <= MOST_CHANNELS and min(shape[height], shape[width]) >= SMALLEST_SIDE:
            return channels, height, width
    return None


def _picture(what: str, values: np.ndarray, axes: tuple[int, int, int]) -> np.ndarray:
    """Transpose pictures [N, H, W], [N, H, W, C] or [N, C, H, W] to [N, C, H, W]."""
    with np.errstate(invalid="ignore"):
        pixels = values.astype(np.uint8, copy=False)
    if pixels is not values and (wrong := pixels != values).any():  # pictures in [0, 1] would become black
        raise EnvError(f"{what} holds {values[wrong][0]:g}, and its space has whole numbers from 0 to 255")
    values = pixels
    if values.ndim == 3:
        return values[:, None]
    return np.ascontiguousarray(values.transpose(0, *(1 + axis for axis in axes)))


# Actions


def choices_of(action: Action) -> int:
    """Return the number of entries of a mask of these actions; 0 for reals, which have no mask."""
    if isinstance(action, Box):
        return 0
    return action.n if isinstance(action, Discrete) else sum(action.sizes)


class ActionScale:
    """Linear map from the cube [-1, 1]^k to a simulator's bounds, cut to [-bound, bound] unless `bound` is 0.

    Of integer actions each value has an interval of the same width.
    """

    def __init__(self, space: spaces.Box, bound: float = 0.0, name: str = "the environment"):
        low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        if bound:
            low, high = np.maximum(low, -bound), np.minimum(high, bound)
        if not (np.abs([low, high]) < HUGE).all():
            raise EnvError(
                f"the actions of {name} have no bounds that [-1, 1] could be rescaled to: --action-bound B cuts them to"
                " [-B, B]"
            )
        self._shape, self._dtype = space.shape, space.dtype
        self._integers = space.dtype.kind in "iub"
        if self._integers:
            low, high = np.ceil(low), np.floor(high)
        if (low > high).any():
            raise EnvError(f"--action-bound {bound:g} leaves {name} no actions between {space.low} and {space.high}")
        self._low, self._high = low, high

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Map actions [N, k] float32 in [-1, 1] to [N, *shape] in the simulator's bounds and type."""
        share = (action.astype(np.float64) + 1) / 2
        if self._integers:
            own = self._low + np.floor(share * (self._high - self._low + 1))
        else:
            own = self._low + share * (self._high - self._low)
        return np.minimum(own, self._high).astype(self._dtype).reshape(len(action), *self._shape)


def action_of(name: str, space: Space, bound: float = 0.0) -> tuple[Action, Callable[[np.ndarray], np.ndarray]]:
    """Return the agent's actions, and the function that turns a batch of them into the simulator's own.

    EnvError for spaces that are no single Discrete, MultiDiscrete, MultiBinary or Box, or leave nothing to choose.
    """
    sizes = getattr(space, "nvec", space.n if isinstance(space, spaces.Discrete) else 2)
    if 0 in (space.shape or ()) or np.all(sizes == 1):
        raise EnvError(f"{name} takes a {space}: an agent needs something to choose")
    if isinstance(space, spaces.Box):
        return Box((math.prod(space.shape),)), ActionScale(space, bound, name)
    if bound:
        raise EnvError(f"--action-bound is for real actions, those of {name} are choices: leave it out")
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return Discrete(int(space.n)), (lambda action: action + start) if start else (lambda action: action)
    if isinstance(space, spaces.MultiDiscrete):
        sizes, start = tuple(space.nvec.ravel().tolist()), space.start
    elif isinstance(space, spaces.MultiBinary):
        sizes, start = (2,) * math.prod(space.shape), 0
    else:
        raise EnvError(
            f"{name} takes a {type(space).__name__}: actions must be Discrete, MultiDiscrete, MultiBinary or Box"
        )
    return MultiDiscrete(sizes), lambda action: (action.reshape(-1, *space.shape) + start).astype(space.dtype)
