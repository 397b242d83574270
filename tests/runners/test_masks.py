"""Environments that forbid actions, from the command line: whole runs, with an actor process and without."""

import json
from pathlib import Path

import pytest

from runners.control import main
from runners.evaluate import main as evaluate


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
    name = f"support.envs_for_runs:Forbidding-{where}-{choices}-v0"
    assert main(f"--env {name} {flags} --run-dir {run_dir}".split()) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["eval"]["mean"] > (6 if choices == "one" else 4)
    assert evaluate([str(run_dir), "--episodes", "3", "--policy", "sample"]) == 0
