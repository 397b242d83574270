"""results.peers.solve: a run is timed to the bar, the sides take turns, and what was measured is kept and shown."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from results import ROOT
from results.jobs import on_cores
from results.peers import solve
from results.peers.catalogue import CLEANRL_STYLE
from results.peers.solve import CARTPOLE, Side, Task
from results.peers.table import overview, solved_table
from results.report import report
from runners.cli import parse
from runners.errors import RunError, UsageError

CORE = min(os.sched_getaffinity(0))

RACE = """
import json, os, sys, time
def write(line):
    os.write(int(os.environ["MARKS"]), json.dumps(line).encode() + b"\\n")
write({"settings": {}, "versions": {"torch": "2.9"}})
for steps, cpu, mean_return in json.loads(sys.argv[1]):
    write({"steps": steps, "wall": 2 * cpu, "cpu": cpu, "mean_return": mean_return})
if sys.argv[2:]:
    sys.exit(sys.argv[2])
"""


def race(tmp_path, marks: list, *more: str, bar: float = 18.0, limit: float = 50.0) -> dict:
    command = [sys.executable, "-c", RACE, json.dumps(marks), *more]
    about, run = solve.timed(command, [CORE], bar, limit, tmp_path / "log")
    assert about["versions"] == {"torch": "2.9"}
    return run


def test_this_project_s_side_is_timed(tmp_path) -> None:
    """CartPole-v1 gives about 20 to a policy that knows nothing."""
    command = [sys.executable, *CARTPOLE.sides[1].command, "--bar", "15", "--seed", "3"]
    about, run = solve.timed(command, [CORE], 15.0, 60.0, tmp_path / "log")
    assert about["settings"]["rule"] == "V-MPO" and about["versions"]["torch"]
    assert run["solved"] and run["mean_return"] >= 15
    assert run["steps"] >= 100 * 10 and 0 < run["wall"] < 60 and 0 < run["cpu"] < 60


def test_time_is_between_the_start_of_learning_and_the_bar(tmp_path) -> None:
    """What comes after the bar does not count; of a curve of 100 points over 50 s they are half a second apart."""
    run = race(tmp_path, [(0, 1, None), (8, 1.1, None), (16, 1.2, 3.0), (99, 4, 18.5), (199, 9, 19.0)])
    assert run == {
        "solved": True,
        "mean_return": 18.5,
        "steps": 99,
        "wall": 6,
        "cpu": 3,
        "curve": [[8, 0.1, None], [99, 3, 18.5]],
    }


def test_a_run_is_given_up_at_the_limit_or_where_it_ends(tmp_path) -> None:
    marks = [(0, 1, None), (99, 4, 17.5), (199, 9, 17.9), (299, 12, 18.1)]
    at_limit = race(tmp_path, marks, limit=8.0)
    assert (at_limit["solved"], at_limit["steps"], at_limit["mean_return"], at_limit["cpu"]) == (False, 199, 17.9, 8)
    at_end = race(tmp_path, marks[:2])
    assert (at_end["solved"], at_end["steps"], at_end["mean_return"], at_end["cpu"]) == (False, 99, 17.5, 3)
    assert race(tmp_path, marks[:1])["steps"] == 0


def test_a_run_that_fails_is_told_with_its_last_words(tmp_path) -> None:
    with pytest.raises(RunError, match="exit code 1: no such game"):
        race(tmp_path, [(0, 1, None)], "no such game")


@pytest.fixture
def two_sides(monkeypatch, tmp_path):
    """A race of a side that is at the bar at once, and one of a peer that fails with its second seed."""

    def timed(command, cores, bar, limit, log, stop):
        seed = int(command[-1])
        ran.append((command[1], seed, *cores, limit))
        if command[1] == "peer.py" and seed == 1:
            raise RunError("it ended with exit code 1: no memory")
        return {"versions": {"torch": "2.9"}}, solved_run(steps=100, wall=2.0, cpu=1.0, mean_return=bar)

    ran = []
    sides = (Side("theirs", ("peer.py",), CLEANRL_STYLE, slow=True), Side("ours", ("-m", "here")))
    monkeypatch.setattr(solve, "timed", timed)
    monkeypatch.setattr(solve, "ensure", lambda name, packages, folder: Path("python"))
    monkeypatch.setattr(solve, "FOLDER", tmp_path)
    monkeypatch.setattr(solve, "TASKS", {"pong": Task("Pong", 18.0, 60.0, sides)})
    return ran


def solved_run(**more) -> dict:
    return {"solved": True, "curve": []} | more


def test_the_sides_take_turns_and_what_is_measured_is_kept(tmp_path, two_sides, capsys) -> None:
    core = max(os.sched_getaffinity(0))
    target = tmp_path / "new/pong.json"
    command = ["pong", "--seeds", "3", "--slow-seeds", "2", "--json", str(target)]
    assert solve.main(command) == 0
    order = [("peer.py", 0), ("-m", 0), ("peer.py", 1), ("-m", 1), ("-m", 2)]
    assert two_sides == [(*run, core, 60.0) for run in order]
    written = json.loads(target.read_text())
    assert [run["seed"] for run in written["runs"]["theirs"]] == [0]
    assert sorted(run["seed"] for run in written["runs"]["ours"]) == [0, 1, 2]
    assert "no memory" in written["failed"]["theirs, seed 1"]
    assert "| ours | 3 of 3 | 1.0 [1.0, 1.0] |" in capsys.readouterr().out
    two_sides.clear()
    assert solve.main([*command, "--resume"]) == 0 and two_sides == [("peer.py", 1, core, 60.0)]
    again = json.loads(target.read_text())
    assert again["runs"] == written["runs"] and again["command"] == written["command"]
    with pytest.raises(UsageError, match="has limit 60.0, not 9.0"):
        solve.main([*command, "--resume", "--limit", "9"])


def test_a_failure_that_comes_last_is_written_too(tmp_path, two_sides, monkeypatch) -> None:
    target = tmp_path / "pong.json"
    turn = solve.timed

    def timed(command, *arguments):
        if command[1] == "-m":
            raise RunError("no memory")
        return turn(command, *arguments)

    monkeypatch.setattr(solve, "timed", timed)
    assert solve.main(["pong", "--seeds", "1", "--json", str(target)]) == 0
    assert json.loads(target.read_text())["failed"] == {"ours, seed 0": "no memory"}


def test_an_interrupt_stops_what_runs_and_drops_what_waits() -> None:
    began, told = [], []

    def run(seed, cores, stop):
        assert cores == [CORE]
        began.append(seed)
        while seed and not stop.asked:
            time.sleep(0.01)
        told.append(seed)

    runs = on_cores(run, range(5), [CORE])
    assert next(runs)[0] == 0
    runs.close()
    assert began == told and len(began) <= 2


def test_with_nothing_measured_solving_is_a_failure(two_sides, monkeypatch) -> None:
    def fails(*_):
        raise RunError("no such game")

    monkeypatch.setattr(solve, "timed", fails)
    with pytest.raises(RunError, match="nothing was measured: no such game"):
        solve.main(["pong", "--seeds", "1", "--limit", "7"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["tetris"], "tetris"),
        (["pong", "--cores", "1000"], "--cores must lie in 1.."),
        (["pong", "--seeds", "2", "--slow-seeds", "3"], "not 3 and 2"),
        (["pong", "--resume"], "--resume needs --json"),
        (["pong", "--seeds", "0"], "not 0 and 0"),
        (["pong", "--limit", "0"], "greater than 0"),
    ],
)
def test_a_wrong_flag_of_solve_is_one_line(flags, says) -> None:
    with pytest.raises(UsageError, match=says) as error:
        solve.main(flags)
    assert "\n" not in str(error.value)


def test_every_side_of_a_task_can_start() -> None:
    for task in solve.TASKS.values():
        for side in task.sides:
            if side.peer:
                assert (ROOT / side.command[0]).exists()
            else:
                runner, *flags = side.command[2:]
                assert parse(runner, flags)[1] is None


def test_the_table_of_times(tmp_path) -> None:
    unsolved = {"solved": False, "steps": 1000, "wall": 9.0, "cpu": 8.0, "mean_return": -3.25}
    unsolved["curve"] = [[100, 1.0, None], [900, 7.0, -4.0]]
    solved = [solved_run(steps=s, wall=w, cpu=2 * w, mean_return=18.1) for s, w in ((900, 2.0), (500, 1.0))]
    about = {"task": "Pong", "bar": 18.0, "limit": 8.0, "cores": 2, "machine": {"processor": "a chip"}}
    about |= {
        "versions": {"a": {"torch": "2.9"}},
        "command": ["python", "-m", "results.peers.solve", "pong"],
        "failed": {"c, seed 0": "no memory"},
    }
    about |= {"runs": {"a": [*solved, unsolved], "b": [unsolved | {"mean_return": None}], "c": []}}
    page = solved_table(about)
    stood = "after 1,000 steps, 8.0 core-seconds |"
    assert f"| a | 2 of 3 | 4.0 [2.0, never] | 2.0 s | 900 | at -3.2 {stood}" in page
    assert f"| b | 0 of 1 | – | – | – | no mean yet {stood}" in page and "| c |" not in page
    assert "- Not measured: c, seed 0: no memory." in page and "2 runs at a time" in page
    data = tmp_path / "results/data"
    (data / "peers").mkdir(parents=True)
    (data / "peers/pong.json").write_text(json.dumps(about))
    assert overview(data).endswith("Versions: torch 2.9.\n\nMeasured by `python -m results.peers.solve pong`.")
    plot = tmp_path / "docs/results/plots/peers_pong.png"
    assert plot in report([], tmp_path) and plot.read_bytes().startswith(b"\x89PNG")
