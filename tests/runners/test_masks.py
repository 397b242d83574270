"""Environments that forbid actions, from the command line: whole runs, with an actor process and without."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from runners.control import main
from runners.evaluate import main as evaluate

STEPS = 10


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
        return seen, float(best), self.t == STEPS, False, info


for part in (False, True):
    for several in (False, True):
        name = f"Forbidding-{'part' if part else 'info'}-{'several' if several else 'one'}-v0"
        gymnasium.register(name, Forbidding, kwargs={"part": part, "several": several})


@pytest.mark.parametrize(
    "where,choices,agent",
    [("part", "one", "vmpo"), ("info", "several", "vmpo"), ("part", "several", "ppo"), ("info", "one", "ppo")],
)
def test_forbidden_actions_are_never_taken_and_the_others_are_learned(
    where: str, choices: str, agent: str, tmp_path: Path
) -> None:
    """A forbidden action ends the run, as the environment raises; a guess among those allowed pays about 4 of 10."""
    run_dir = tmp_path / "run"
    actors = "1" if agent == "vmpo" else "0"
    flags = f"--agent {agent} --actors {actors} --core feedforward --steps 32768 --eval-episodes 20 --no-video"
    name = f"test_masks:Forbidding-{where}-{choices}-v0"
    assert main(f"--env {name} {flags} --run-dir {run_dir}".split()) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["eval"]["mean"] > (6 if choices == "one" else 4)
    assert evaluate([str(run_dir), "--episodes", "3", "--policy", "sample"]) == 0
