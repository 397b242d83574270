"""Tiny environments with every kind of observation and action; importing this module registers them with gymnasium.

`Tiny-OBSERVATION-ACTION-v0` shows the step t of its episode and a random bit, pays the sum of what its action holds,
ends by chance, and is truncated after 40 steps.
"""

import gymnasium
import numpy as np
from gymnasium import spaces

LIMIT = 40


def bits(t: int, bit: int) -> np.ndarray:
    return np.array([(t >> k) & 1 for k in range(6)] + [bit], np.int8)


def picture(t: int, bit: int, shape: tuple[int, ...]) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) + 7 * t + 100 * bit).astype(np.uint8)


OBSERVATIONS = {
    "vector": (spaces.Box(-1, 1, (3,), np.float32), lambda t, b: np.array([b, t / 50, 0.5], np.float32)),
    "wide": (spaces.Box(-np.inf, np.inf, (2, 2), np.float64), lambda t, b: np.array([[b, 1e3 * t], [0, 1]], float)),
    "integers": (spaces.Box(0, 100, (2,), np.int64), lambda t, b: np.array([t, b])),
    "booleans": (spaces.Box(0, 1, (7,), bool), lambda t, b: bits(t, b).astype(bool)),
    "number": (spaces.Box(0, 1000, (), np.float32), lambda t, b: np.float32(2 * t + b)),
    "picture": (spaces.Box(0, 255, (9, 10, 3), np.uint8), lambda t, b: picture(t, b, (9, 10, 3))),
    "channels": (spaces.Box(0, 255, (2, 9, 10), np.uint8), lambda t, b: picture(t, b, (2, 9, 10))),
    "grey": (spaces.Box(0, 255, (9, 10), np.uint8), lambda t, b: picture(t, b, (9, 10))),
    "discrete": (spaces.Discrete(100, start=-3), lambda t, b: 2 * t + b - 3),
    "multidiscrete": (spaces.MultiDiscrete([50, 2], start=[1, 0]), lambda t, b: np.array([t + 1, b])),
    "multibinary": (spaces.MultiBinary(7), bits),
    "tuple": (spaces.Tuple((spaces.Discrete(50), spaces.Discrete(2))), lambda t, b: (t, b)),
    "dict": (
        spaces.Dict(
            {
                "inner": spaces.Dict({"bit": spaces.Discrete(2), "both": spaces.Box(-99, 99, (2, 1), np.float64)}),
                "screen": spaces.Box(0, 255, (9, 10), np.uint8),
                "tail": spaces.Tuple((spaces.MultiBinary(7), spaces.Box(0, 1, (1,), np.float32))),
            }
        ),
        lambda t, b: {
            "inner": {"bit": b, "both": np.array([[t], [-t]], float)},
            "screen": picture(t, b, (9, 10)),
            "tail": (bits(t, b), np.array([0.25], np.float32)),
        },
    ),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=-1),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[0, 1]),
    "multibinary": spaces.MultiBinary(2),
    "box": spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32)),
    "matrix": spaces.Box(-1, 1, (2, 2), np.float64),
    "int8": spaces.Box(-2, 2, (2,), np.int8),
    "unbounded": spaces.Box(-np.inf, np.inf, (1,), np.float32),
}


class Tiny(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, observation: str, action: str, mask: str = "", render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space, self.show = OBSERVATIONS[observation]
        self.action_space = ACTIONS[action]
        self.mask = mask
        if mask == "part":
            space = spaces.Dict({"seen": self.observation_space, "action_mask": spaces.MultiBinary(5)})
            self.observation_space = space

    def _see(self, over: bool):
        self.bit = int(self.np_random.integers(2))
        mask = np.array([1, self.bit, self.bit, 1, 1 - self.bit], np.int8) * (not over)
        seen, info = self.show(self.t, self.bit), {}
        if self.mask == "part":
            seen = {"seen": seen, "action_mask": mask}
        elif self.mask == "info" and self.t % 3 != 1:
            info["action_mask"] = (mask[:2], mask[2:])
        return seen, info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(False)

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        over = self.np_random.random() < 0.03
        seen, info = self._see(over or self.t == LIMIT)
        return seen, float(np.sum(action, dtype=np.float64)), over, False, info

    def render(self):
        return picture(self.t, self.bit, (16, 16, 3))


REWARDS = {"reward": np.nan, "none": None, "pair": np.zeros(2), "words": "a lot", "much": 1e39}
REWARDS |= {"uneven": [[0], [0, 0]], "digit": "1"}


class Oracle(gymnasium.Env):
    """What an environment must not do: most of it at step 3."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, wrong: str, render_mode: str | None = None):
        self.wrong, self.render_mode = wrong, render_mode
        self.observation_space = spaces.Dict(
            {"a": spaces.Discrete(4), "b": spaces.Box(-1, 1, (2, 3), np.float32), "text": spaces.Discrete(2)}
        )
        if wrong == "text":
            self.observation_space["text"] = spaces.Text(5)
        if wrong == "long":
            self.observation_space["text"] = spaces.Discrete(4097)
        if wrong == "tuple":
            self.observation_space["action_mask"] = spaces.Tuple([spaces.MultiBinary(1), spaces.MultiBinary(1)])
        if wrong in ("mask", "size"):
            self.observation_space["action_mask"] = spaces.MultiBinary(2 if wrong == "mask" else 3)
        self.action_space = spaces.Dict({"x": spaces.Discrete(2)}) if wrong == "action" else spaces.Discrete(2)

    def _see(self):
        here = self.t == 3
        b = np.full((2, 3) if not (here and self.wrong == "shape") else (2, 2), 0.5, np.float32)
        if here and self.wrong in ("nan", "inf", "huge"):
            b = b.astype(np.float64)
            b[1, 0] = {"nan": np.nan, "inf": -np.inf, "huge": 1e39}[self.wrong]
        seen = {"a": 4 if here and self.wrong == "value" else 1, "b": b, "text": 1}
        if here and self.wrong == "missing":
            del seen["text"]
        if self.wrong in ("mask", "size"):
            seen["action_mask"] = np.array([not here, 0], np.int8)
        masked = self.wrong == "info" or self.wrong == "late" and here
        return seen, {"action_mask": np.ones(5)} if masked else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see()

    def step(self, action):
        self.t += 1
        if self.wrong == "raises" and self.t == 3:
            raise KeyError("joint")
        if self.wrong == "exits" and self.t == 3:
            raise SystemExit("bye")
        seen, info = self._see()
        if self.wrong == "four" and self.t == 3:
            return seen, 0.0, False, info
        return seen, REWARDS.get(self.wrong, 0.0) if self.t == 3 else 0.0, False, False, info

    def render(self):
        return None


class Draws(Tiny):
    """Draws for people only."""

    metadata = {"render_modes": ["human"]}


class Fails(Tiny):
    def render(self):
        raise RuntimeError("gladLoadGL error\nsecond line")


WRONG = "text long action nan inf huge shape value missing reward none pair words much mask size info picture".split()
WRONG += ["raises", "four", "exits", "uneven", "digit", "late", "tuple"]


def _register(name: str, kind: type, limit: int | None, **options) -> None:
    if name not in gymnasium.registry:
        gymnasium.register(
            name,
            entry_point=f"{__name__}:{kind.__name__}",
            max_episode_steps=limit,
            kwargs=options,
            order_enforce=False,
        )


for _observation in OBSERVATIONS:
    for _action in ACTIONS:
        _register(f"Tiny-{_observation}-{_action}-v0", Tiny, LIMIT, observation=_observation, action=_action)
for _mask in ("part", "info"):
    for _observation in ("vector", "dict"):
        _options = {"observation": _observation, "action": "multidiscrete", "mask": _mask}
        _register(f"Masked-{_mask}-{_observation}-v0", Tiny, LIMIT, **_options)
_register("NoLimit-v0", Tiny, None, observation="vector", action="discrete")
_register("Draws-v0", Draws, LIMIT, observation="vector", action="discrete")
_register("Fails-v0", Fails, LIMIT, observation="vector", action="discrete")
for _wrong in WRONG:
    _register(f"Wrong-{_wrong}-v0", Oracle, None, wrong=_wrong)
