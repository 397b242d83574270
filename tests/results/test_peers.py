"""results/peers: the accounting of a process tree, a run from mark to mark, installing, the tables and the command."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from results import ROOT, jobs, venvs
from results.jobs import Stop, end
from results.peers import __main__ as peers
from results.peers import marks
from results.peers.catalogue import OURS, TASKS, Peer, Side, Task
from results.peers.drivers import protocol
from results.peers.drivers.protocol import cpu_seconds, session_members
from results.peers.marks import follow
from results.peers.tables import solved_table, speed_table
from results.report import pages, report
from results.venvs import ensure
from runners.cli import parse
from runners.errors import RunError, UsageError

CORE = min(os.sched_getaffinity(0))

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
LINGER = "print('done', flush=True)\ntime.sleep(60)\n"
START = "import subprocess, sys\nsubprocess.{how}([sys.executable, '-c', {script!r}])\n"
ORPHANING = START.format(how="Popen", script=BURN + "time.sleep(60)")
BUSY = {
    "a child": START.format(how="run", script=BURN) + BURN + LINGER,
    "an orphan": START.format(how="run", script=ORPHANING) + BURN + LINGER,
}

DRIVERS = Path(peers.__file__).parent / "drivers"
DRIVER = """
import os, subprocess, sys, time
from results.peers.drivers import protocol
protocol.INTERVAL = 0
mark = protocol.Marks()
mode = sys.argv[1]
print("a line of something else, and no end of it", end="", flush=True)
protocol.describe([], [], threads=os.environ["OMP_NUM_THREADS"], cores=sorted(os.sched_getaffinity(0)))
if mode == "strays":
    os.sched_setaffinity(0, range(os.cpu_count()))
if mode == "child":
    subprocess.Popen([sys.executable, "-c", "while True: pass"])
for batch in range(10**9):
    if mode == "fails" and batch == 5:
        sys.exit("no game called Pnog")
    until = time.monotonic() + (0.1 if batch >= 3 else 0.001)
    while mode == "burns" and time.monotonic() < until:
        pass
    time.sleep(max(0, until - time.monotonic()))
    mark(100 * batch)
"""
SPEED = Task("Pong", (), seeds=1, seconds=0.3, warm_up=0.2)
RACE = """
import json, sys
from results.peers.drivers.protocol import _write
_write({"settings": {}, "versions": {"torch": "2.9"}})
for steps, cpu, mean_return in json.loads(sys.argv[1]):
    _write({"steps": steps, "wall": 2 * cpu, "cpu": cpu, "mean_return": mean_return})
if sys.argv[2:]:
    sys.exit(sys.argv[2])
"""


# Accounting


@pytest.mark.parametrize("other", BUSY)
def test_processor_time_of_a_tree(other) -> None:
    """Each of two processes burns 0.3 s: a child that has ended and was waited for, or one that lost its parent."""
    command = [sys.executable, "-c", BUSY[other]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        process.stdout.readline()
        until = time.monotonic() + 5  # an orphan may still burn
        ticks = 0.05  # what rounding may take off
        while cpu_seconds(process.pid) < 0.6 - ticks and time.monotonic() < until:
            time.sleep(0.02)
        starting = 0.4  # of Python
        assert 0.6 - ticks <= cpu_seconds(process.pid) < 0.6 + starting
        assert len(session_members(process.pid)) == (2 if other == "an orphan" else 1)
    finally:
        end(process)
        process.stdout.close()
    assert not session_members(process.pid)


def run_driver(tmp_path, mode: str, seconds: float = 0.3) -> tuple[dict, dict]:
    return follow(["python", "-c", DRIVER, mode], [CORE], tmp_path / "log", SPEED, seconds)


def test_a_measurement_lies_between_two_marks(tmp_path) -> None:
    """0.1 s a batch of 100 steps; the first batches, which take less, do not count."""
    before = os.sched_getaffinity(0)
    about, found = run_driver(tmp_path, "burns")
    assert about["settings"] == {"threads": "1", "cores": [CORE], "parameters": 0}
    assert found["steps"] % 100 == 0 and 0.3 <= found["cpu"] <= found["wall"] + 0.1
    assert found["steps"] / found["wall"] <= 100 / 0.1
    assert os.sched_getaffinity(0) == before


def test_a_child_s_time_counts(tmp_path) -> None:
    """The driver sleeps: the core-seconds are its child's."""
    _, found = run_driver(tmp_path, "child")
    assert 0.3 <= found["cpu"] and not found["solved"]


def test_what_fails_is_told_with_its_last_words(tmp_path) -> None:
    with pytest.raises(RunError, match="exit code 1: no game called Pnog"):
        run_driver(tmp_path, "fails")


def test_silence_is_no_measurement(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(marks, "PATIENCE", 0.1)
    with pytest.raises(RunError, match="it reported nothing for"):
        follow(["python", "-c", "import time; time.sleep(60)"], [CORE], tmp_path / "log", SPEED, 1)


@pytest.mark.skipif(os.cpu_count() < 2, reason="needs a core to stray to")
def test_what_leaves_its_cores_is_refused(tmp_path) -> None:
    with pytest.raises(RunError, match=rf"not on \[{CORE}\] alone"):
        run_driver(tmp_path, "strays", seconds=0.0)


def test_a_command_that_is_stopped_is_ended(tmp_path) -> None:
    stop = Stop()
    stop.asked = True
    with jobs.running(["python", "-c", DRIVER, "sleeps"], [CORE], tmp_path / "log") as process:
        assert session_members(process.pid)
        with pytest.raises(RunError, match="stopped"):
            list(marks.marks(process, tmp_path / "log", stop))
    assert not session_members(process.pid)


def race(tmp_path, lines: list, *more: str, seconds: float = 50.0) -> dict:
    command = ["python", "-c", RACE, json.dumps(lines), *more]
    about, run = follow(command, [CORE], tmp_path / "log", Task("Pong", (), 1, 60.0, bar=18.0), seconds)
    assert about["versions"] == {"torch": "2.9"}
    return run


def test_time_is_between_the_start_of_learning_and_the_bar(tmp_path) -> None:
    """What comes after the bar does not count; of a curve of 100 points over 50 s they are half a second apart."""
    run = race(tmp_path, [(0, 1, None), (8, 1.1, None), (16, 1.2, 3.0), (99, 4, 18.5), (199, 9, 19.0)])
    curve = [[8, 0.1, None], [99, 3, 18.5]]
    assert run == {"solved": True, "mean_return": 18.5, "steps": 99, "wall": 6, "cpu": 3, "curve": curve}


def test_a_run_is_given_up_at_the_limit_or_where_it_ends(tmp_path) -> None:
    lines = [(0, 1, None), (99, 4, 17.5), (199, 9, 17.9), (299, 12, 18.1)]
    at_limit = race(tmp_path, lines, seconds=8.0)
    assert (at_limit["solved"], at_limit["steps"], at_limit["mean_return"], at_limit["cpu"]) == (False, 199, 17.9, 8)
    at_end = race(tmp_path, lines[:2])
    assert (at_end["solved"], at_end["steps"], at_end["mean_return"], at_end["cpu"]) == (False, 99, 17.5, 3)
    assert race(tmp_path, lines[:1])["steps"] == 0


def test_a_race_that_fails_is_told_with_its_last_words(tmp_path) -> None:
    with pytest.raises(RunError, match="exit code 1: no such game"):
        race(tmp_path, [(0, 1, None)], "no such game")


def test_this_project_s_side_is_timed(tmp_path) -> None:
    """CartPole-v1 gives about 20 to a policy that knows nothing."""
    task = Task("CartPole-v1", (), 1, 60.0, bar=15.0)
    command = [*peers.command_of(TASKS["cartpole"].sides[1], [], {}), "--bar", "15", "--seed", "3"]
    about, run = follow(command, [CORE], tmp_path / "log", task, 60.0)
    assert about["settings"]["rule"] == "V-MPO" and about["versions"]["torch"] and about["settings"]["parameters"] > 0
    assert run["solved"] and run["mean_return"] >= 15
    assert run["steps"] >= 100 * 10 and 0 < run["wall"] and 0 < run["cpu"] < 60


def test_marks_are_a_second_apart_but_for_the_bar(monkeypatch) -> None:
    clock, written = iter([10.0, 10.5, 11.2, 11.3, 11.4]), []
    monkeypatch.setattr(protocol.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(protocol, "_write", written.append)
    mark = protocol.Marks(bar=18)
    for steps, mean_return in ((100, None), (200, None), (300, 17.0), (400, 17.9), (500, 18.0)):
        mark(steps, mean_return)
    expected = [(100, 10.0, None), (300, 11.2, 17.0), (500, 11.4, 18.0)]
    assert [(line["steps"], line["wall"], line["mean_return"]) for line in written] == expected
    assert written[0]["cpu"] > 0


def test_a_mean_is_of_a_hundred_episodes() -> None:
    assert protocol.mean_of([3.0] * 99) is None and protocol.mean_of([1.0, 3.0] * 50) == 2


# Installing


@pytest.fixture
def installed(tmp_path, monkeypatch) -> list:
    """Commands of an installer that makes what it should, and fails for what is called no-such-package."""

    def finish(command, cores, log):
        ran.append(command)
        (tmp_path / "venv/bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "venv/bin/python").touch()
        if "no-such-package" in command:
            raise RunError("it ended with exit code 1: ERROR: no matching distribution")

    ran = []
    monkeypatch.setattr(venvs.jobs, "finish", finish)
    return ran


def test_an_environment_is_made_once_for_its_list(tmp_path, installed) -> None:
    python = tmp_path / "venv/bin/python"
    for _ in range(2):
        assert ensure("some-peer", ["a-package"], tmp_path) == python
    assert installed[0] == ["python", "-m", "venv", str(tmp_path / "venv")] and len(installed) == 2
    assert installed[1][:4] == [str(python), "-m", "pip", "install"]
    assert installed[1][-2:] == [f"torch=={torch.__version__.partition('+')[0]}", "a-package"]
    ensure("some-peer", ["another"], tmp_path)
    assert len(installed) == 4


def test_an_interrupted_installation_is_made_anew(tmp_path, installed) -> None:
    for _ in range(2):
        with pytest.raises(RunError, match="^some-peer could not be installed: it ended .* no matching distribution"):
            ensure("some-peer", ["no-such-package"], tmp_path)
    assert len(installed) == 4


def test_what_cannot_be_installed_is_one_line_and_the_rest_goes_on(tmp_path, monkeypatch, capsys) -> None:
    """pip with no index to ask, which knows no package at all."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    finish, failed = jobs.finish, {}
    with_this_pip = lambda command, *rest: finish(["python", *command[1:]], *rest) if "install" in command else None  # noqa: E731
    monkeypatch.setattr(venvs.jobs, "finish", with_this_pip)
    needless, nowhere = Peer("needless", "x", ()), Peer("nowhere", "x", ("no-such-package",))
    pythons = peers.install([Side("a", "", nowhere), Side("b", "")], failed)
    assert pythons == {} and list(failed) == ["nowhere"]
    assert "ERROR: No matching distribution found" in failed["nowhere"]
    assert failed["nowhere"] in capsys.readouterr().out.splitlines()
    monkeypatch.setattr(venvs.jobs, "finish", lambda *_: None)
    assert list(peers.install([Side("a", "", needless)] * 2, failed)) == ["needless"] and len(failed) == 1


# The tables


def run_of(side: str, seed: int, steps: int, wall: float, cpu: float, **more) -> dict:
    race = {"solved": False, "mean_return": None, "curve": []}
    return {"side": side, "seed": seed, "steps": steps, "wall": wall, "cpu": cpu} | race | more


def about(library: str, **settings) -> dict:
    shape = {"core": "lstm", "hidden": 128, "envs": 32, "unroll": 16, "minibatches": 8, "passes": 4}
    return {"library": library, "settings": shape | settings, "versions": {"torch": "2.9"}}


def figures(**more) -> dict:
    """The machine is half as fast in the second round, and the peer unlucky in the third."""
    usages = [((1000, 11, 10), (3000, 11, 10)), ((500, 11, 10), (1500, 11, 10)), ((250, 11, 10), (3000, 11, 10))]
    runs = [
        run_of(side, seed, *usage)
        for seed, pair in enumerate(usages)
        for side, usage in zip(("a-peer", "a-peer" + OURS), pair, strict=True)
    ]
    sides = {
        "a-peer": about("a-peer", rule="PPO"),
        "a-peer" + OURS: about("GEMPI", rule="V-MPO", arithmetic="bfloat16"),
    }
    where = {"command": ["python", "-m", "results.peers", "speed"], "machine": {"processor": "a chip", "cores": 2}}
    where |= {"task": "Pong", "seconds": 20.0, "cores": 1, "failed": {"b-peer": "could not be installed"}}
    return where | {"sides": sides, "runs": runs} | more


def test_speeds_are_medians_and_the_ratio_is_that_of_rounds() -> None:
    row = speed_table(figures()).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["a-peer, PPO", "LSTM 128", "32 x 16", "4 x 8"]
    assert cells[4:] == ["50", "300", "3.00 [3.00, 12.00]", "45", "273", "3.00"]
    alone = [run for run in figures()["runs"] if run["side"] == "a-peer"]
    assert "a-peer" not in speed_table(figures(runs=alone))


def test_the_table_of_times() -> None:
    spent = {"steps": 1000, "wall": 9.0, "cpu": 8.0}
    unsolved = run_of("a", 2, **spent, mean_return=-3.25)
    runs = [run_of("a", i, s, w, 2 * w, solved=True, mean_return=18.1) for i, (s, w) in enumerate(((900, 2), (500, 1)))]
    page = solved_table(figures(runs=[*runs, unsolved, run_of("b", 0, **spent)], sides=dict.fromkeys("abc")))
    stood = "after 1,000 steps, 8.0 core-seconds |"
    assert f"| a | 2 of 3 | 4.0 [2.0, never] | 2.0 s | 900 | at -3.2 {stood}" in page
    assert f"| b | 0 of 1 | – | – | – | no mean yet {stood}" in page and "| c |" not in page


def test_what_is_kept_is_shown_with_how_it_was_taken(tmp_path) -> None:
    (tmp_path / "results/pages").mkdir(parents=True)
    (tmp_path / "results/pages/peers.md").write_text((ROOT / "results/pages/peers.md").read_text())
    (page,) = pages([], tmp_path).values()
    assert "Measured by" not in page and "|" not in page
    (tmp_path / "results/data/peers").mkdir(parents=True)
    (tmp_path / "results/data/peers/speed.json").write_text(json.dumps(figures()))
    curve = [[100, 1.0, None], [900, 7.0, -4.0]]
    runs = [run_of("x", 0, 1000, 9.0, 8.0, mean_return=-3.0, curve=curve), run_of("y", 0, 1000, 9.0, 8.0)]
    sides = {"x": {"versions": {"torch": "2.8"}}, "y": {}}
    pong = figures(bar=18.0, cores=2, runs=runs, sides=sides, failed={"c, seed 0": "no memory"})
    (tmp_path / "results/data/peers/pong.json").write_text(json.dumps(pong))
    (page,) = (" ".join(text.split()) for text in pages([], tmp_path).values())
    assert (
        "Not measured: b-peer: could not be installed." in page
        and "Measured by `python -m results.peers speed`" in page
    )
    assert "Medians of 3 rounds of 20 s" in page and "a chip, 2 cores. Versions: torch 2.9." in page
    assert "Not measured: c, seed 0: no memory." in page and "2 runs at a time" in page and "torch 2.8" in page
    plot = tmp_path / "docs/results/plots/peers_pong.png"
    assert plot in report([], tmp_path) and plot.read_bytes().startswith(b"\x89PNG")


# What is compared


PAIRS = [side for side in TASKS["speed"].sides if side.peer]


@pytest.mark.parametrize("side", PAIRS, ids=lambda side: side.name)
def test_both_sides_have_the_same_batch(side) -> None:
    (ours,) = (other for other in TASKS["speed"].sides if other.name == side.name + OURS)
    config, _ = parse("atari", ours.flags.split()[1:])
    theirs = dict(zip(side.flags.split()[::2], side.flags.split()[1::2], strict=True))
    for name in ("envs", "unroll", "minibatches", "passes"):
        assert str(getattr(config.training, name)) == theirs[f"--{name}"]
    assert (config.network.core, str(config.network.embedding)) == (theirs["--core"], theirs["--hidden"])


def test_every_side_of_a_task_can_start(monkeypatch) -> None:
    for task in TASKS.values():
        for side in task.sides:
            if side.peer:
                assert (DRIVERS / f"{side.peer.driver}.py").exists()
                monkeypatch.setattr(sys, "argv", ["driver", *side.flags.split(), "--seed", "1", "--bar", "18"])
                assert protocol.options().bar == 18
            else:
                runner, *flags = side.flags.split()
                assert parse(runner, flags)[1] is None


def test_drivers_import_nothing_else_of_the_project() -> None:
    for path in DRIVERS.glob("*.py"):
        for line in path.read_text().splitlines():
            named = line.split()[1].split(".")[0] if line.startswith(("import ", "from ")) else ""
            assert named not in ("agents", "envs", "networks", "results", "runners") or (
                line == "from results.peers.drivers import protocol"
            ), path


# The peer of our own writing


@pytest.fixture
def cleanrl_style():
    return importlib.import_module("results.peers.drivers.cleanrl_style")


def test_the_peer_s_lstm_learns_from_what_it_acted_on(cleanrl_style) -> None:
    """Sequences of some environments, recomputed from the state before them, give the values of acting."""
    torch.manual_seed(0)
    unroll, envs, hidden = 5, 6, 8
    agent = cleanrl_style.Agent(3, "lstm", hidden)
    observation = torch.randint(0, 255, (unroll, envs, 4, 84, 84)).float()
    done = (torch.rand(unroll, envs) < 0.3).float()
    initial = state = tuple(torch.randn(2, 1, envs, hidden))
    acted = []
    with torch.no_grad():
        for t in range(unroll):
            _, value, state = agent(observation[t], done[t], state)
            acted.append(value)
        acted = torch.stack(acted).flatten()
        for index in cleanrl_style.minibatches(envs, unroll, 3, whole=True):
            columns = index[: len(index) // unroll]
            at_start = tuple(s[:, columns] for s in initial)
            flat = observation.flatten(0, 1)[index], done.flatten()[index]
            torch.testing.assert_close(agent(*flat, at_start)[1], acted[index], atol=1e-5, rtol=1e-5)


def test_the_peer_s_advantages_are_sums_of_errors(cleanrl_style) -> None:
    """The definition: errors discounted by gamma lambda up to the end of the episode or of the unroll."""
    torch.manual_seed(0)
    reward, value, done = torch.randn(6, 1), torch.randn(7, 1), torch.zeros(7, 1)
    done[3] = 1
    found = cleanrl_style.advantages_of(reward, value, done)
    errors = reward + 0.99 * (1 - done[1:]) * value[1:] - value[:-1]
    for t in range(6):
        end = 3 if t < 3 else 6
        expected = sum((0.99 * 0.95) ** (k - t) * errors[k] for k in range(t, end))
        torch.testing.assert_close(found[t], expected)


# The command


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["tetris"], "tetris"),
        (["speed", "--seeds", "0"], "--seeds must be greater than 0, not 0"),
        (["pong", "--seconds", "0"], "--seconds must be greater than 0"),
        (["pong", "--cores", "1000"], "--cores must lie in 1.."),
        (["speed", "--only", "rllib"], "--only 'rllib' is in no name of: cleanrl-style"),
        (["speed", "--precison", "float32"], "--precision"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, says) -> None:
    with pytest.raises(UsageError, match=says) as error:
        peers.main(flags)
    assert "\n" not in str(error.value)


@pytest.fixture
def two_sides(monkeypatch, tmp_path) -> list:
    """A race of a peer that fails with its second seed, and of this project, which is at the bar at once."""

    def followed(command, cores, log, task, seconds, stop):
        seed, theirs = int(command[command.index("--seed") + 1]), command[0] != "python"
        ran.append((theirs, seed, *cores, seconds))
        if theirs and seed == 1:
            raise RunError("it ended with exit code 1: no memory")
        found = {"solved": True, "mean_return": task.bar, "steps": 100, "wall": 2.0, "cpu": 1.0, "curve": []}
        return about("", rule=""), found

    ran = []
    sides = (Side("theirs", "--env CartPole-v1", Peer("a", "sb3", ())), Side("ours", "control --env CartPole-v1"))
    monkeypatch.setattr(peers, "follow", followed)
    monkeypatch.setattr(peers, "ensure", lambda name, packages, folder: ROOT / "theirs")
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    monkeypatch.setitem(TASKS, "cartpole", Task("CartPole-v1", sides, 3, 60.0, bar=475.0))
    return ran


def test_the_sides_take_turns_and_what_is_measured_is_kept(tmp_path, two_sides, capsys) -> None:
    core, target = max(os.sched_getaffinity(0)), tmp_path / "new/cartpole.json"
    command = ["cartpole", "--json", str(target)]
    with pytest.raises(RunError, match="1 failed, the first: theirs, seed 1: it ended with exit code 1: no memory"):
        peers.main(command)
    assert two_sides == [(theirs, seed, core, 60.0) for seed in range(3) for theirs in (True, False)]
    written = json.loads(target.read_text())
    assert [(run["side"], run["seed"]) for run in written["runs"] if run["side"] == "theirs"] == [
        ("theirs", 0),
        ("theirs", 2),
    ]
    assert list(written["failed"]) == ["theirs, seed 1"] and list(written["sides"]) == ["theirs", "ours"]
    assert "| ours | 3 of 3 | 1.0 [1.0, 1.0] |" in capsys.readouterr().out
    two_sides.clear()
    assert peers.main([*command, "--only", "our", "--seeds", "4"]) == 0 and two_sides == [(False, 3, core, 60.0)]
    again = json.loads(target.read_text())
    assert again["runs"][:-1] == written["runs"] and again["sides"]["theirs"] == written["sides"]["theirs"]
    with pytest.raises(UsageError, match="has seconds 60.0, not 9.0: give another --json"):
        peers.main([*command, "--seconds", "9"])
    with pytest.raises(UsageError, match="has flags"):
        peers.main([*command, "--memory", "9"])


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path, two_sides) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        peers.main(["cartpole", "--json", str(tmp_path / "file/cartpole.json")])
    assert two_sides == []


def test_commands_are_kept_as_a_user_would_type_them() -> None:
    theirs, ours = TASKS["speed"].sides[:2]
    python = {"cleanrl-style": peers.FOLDER / "cleanrl-style/venv/bin/python"}
    command = peers.command_of(theirs, ["--precision", "float32"], python)
    driver = ["-m", "results.peers.drivers.cleanrl_style"]
    assert command == ["runs/peers/cleanrl-style/venv/bin/python", *driver, *theirs.flags.split()]
    command = peers.command_of(ours, ["--precision", "float32"], python)
    assert command == ["python", "-m", "results.peers.ours", *ours.flags.split(), "--precision", "float32"]


def test_an_interrupt_stops_what_runs_and_drops_what_waits() -> None:
    began, ended = [], []

    def run(seed, cores, stop):
        assert cores == [CORE]
        began.append(seed)
        while seed and not stop.asked:
            time.sleep(0.01)
        ended.append(seed)

    runs = jobs.on_cores(run, range(5), [CORE])
    assert next(runs)[0] == 0
    runs.close()
    assert began == ended and len(began) <= 2


def test_signals_reach_every_process() -> None:
    """One that ignores SIGTERM is killed."""
    ignores = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", ignores], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    end(process, patience=0.2)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
