"""Environments for whole runs; importing this module registers them with gymnasium."""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Endless(gymnasium.Env):
    """An episode that never ends; each step pays 1."""

    metadata = {"render_modes": []}
    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, np.float32), 1.0, False, False, {}


class FarCartPole(CartPoleEnv):
    """CartPole in other units: every observation times 100 plus 1000."""

    def reset(self, **options: object) -> tuple[np.ndarray, dict]:
        observation, info = super().reset(**options)
        return 100 * observation + 1000, info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, *others = super().step(action)
        return 100 * observation + 1000, *others


class Breaks(Endless):
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.array([0, np.nan], np.float32), 1.0, False, False, {}


class Forbidding(gymnasium.Env):
    """Of each of two choices some are forbidden, and taking one raises; the others pay by their number."""

    metadata = {"render_modes": []}

    def __init__(self, part: bool, several: bool) -> None:
        self.part, self.several = part, several
        self.sizes = [3, 4] if several else [5]
        self.action_space = spaces.MultiDiscrete(self.sizes) if several else spaces.Discrete(5)
        seen = spaces.Box(-1, 1, (2,), np.float32)
        mask = spaces.MultiBinary(sum(self.sizes))
        self.observation_space = spaces.Dict({"seen": seen, "action_mask": mask}) if part else seen

    def _see(self) -> tuple[object, dict]:
        self.masks = [self.np_random.random(n) < 0.5 for n in self.sizes]
        for mask in self.masks:
            mask[self.np_random.integers(len(mask))] = True
        flat = np.concatenate(self.masks).astype(np.int8)
        seen = np.array([0.5, -0.5], np.float32)
        return ({"seen": seen, "action_mask": flat}, {}) if self.part else (seen, {"action_mask": flat})

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[object, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self._see()

    def step(self, action: object) -> tuple[object, float, bool, bool, dict]:
        taken = np.atleast_1d(action)
        for choice, mask in zip(taken, self.masks, strict=True):
            assert mask[choice], "forbidden"
        best = all(choice == np.flatnonzero(mask)[-1] for choice, mask in zip(taken, self.masks, strict=True))
        self.t += 1
        seen, info = self._see()
        return seen, float(best), self.t == 10, False, info


gymnasium.register("Endless-v0", Endless)
gymnasium.register("FarCartPole-v0", FarCartPole, max_episode_steps=500)
gymnasium.register("Breaks-v0", Breaks)
for part in (False, True):
    for several in (False, True):
        name = f"Forbidding-{'part' if part else 'info'}-{'several' if several else 'one'}-v0"
        gymnasium.register(name, Forbidding, kwargs={"part": part, "several": several})
