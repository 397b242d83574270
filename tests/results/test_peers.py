"""results/peers: the accounting of a process tree, the arithmetic of pairs, installing, the table and the command."""

import argparse
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

from results import venvs
from results.jobs import Stop, end
from results.peers import __main__ as peers
from results.peers import marks
from results.peers.catalogue import COMPARISONS, PEERS, Peer
from results.peers.drivers import protocol
from results.peers.drivers.protocol import cpu_seconds, session_members
from results.peers.marks import Usage, measure, reports
from results.peers.table import overview, speed, table
from results.venvs import ensure, reason
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
DRIVER = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(DRIVERS)!r})
import protocol
protocol.INTERVAL = 0
mark = protocol.Marks()
mode = sys.argv[1]
protocol.describe([], threads=os.environ["OMP_NUM_THREADS"], cores=sorted(os.sched_getaffinity(0)))
if mode == "strays":
    os.sched_setaffinity(0, range(os.cpu_count()))
if mode == "child":
    subprocess.Popen([sys.executable, "-c", "while True: pass"])
for batch in range(10**9):
    if mode == "fails" and batch == 5:
        sys.exit("no game called Pnog")
    time.sleep(0.1 if batch >= 3 else 0.001)
    mark(100 * batch)
"""


def usages(*pairs: tuple[tuple, tuple]) -> list[dict]:
    return [{"peer": Usage(*peer)._asdict(), "ours": Usage(*ours)._asdict()} for peer, ours in pairs]


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch) -> None:
    monkeypatch.setattr(marks, "WARM_UP", 0.2)


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


def run_driver(tmp_path, mode: str, seconds: float = 0.4) -> tuple[dict, Usage]:
    command = [sys.executable, "-c", DRIVER, mode]
    return measure(command, [CORE], seconds, log=tmp_path / "log")


def test_a_measurement_lies_between_two_marks(tmp_path) -> None:
    """0.1 s a batch of 100 steps, nearly all of it asleep; the first batches, which take less, do not count."""
    before = os.sched_getaffinity(0)
    about, usage = run_driver(tmp_path, "sleeps")
    assert about["settings"] == {"threads": "1", "cores": [CORE]}
    assert usage.steps % 100 == 0 and 0.4 <= usage.wall
    assert usage.steps / usage.wall <= 100 / 0.1
    assert usage.cpu < usage.wall / 2
    assert os.sched_getaffinity(0) == before


def test_a_child_s_time_counts(tmp_path) -> None:
    _, usage = run_driver(tmp_path, "child", seconds=0.5)
    _, alone = run_driver(tmp_path, "sleeps", seconds=0.5)
    assert usage.cpu > 2 * alone.cpu


def test_what_fails_is_told_with_its_last_words(tmp_path) -> None:
    with pytest.raises(RunError, match="exit code 1: no game called Pnog"):
        run_driver(tmp_path, "fails")


def test_silence_is_no_measurement(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(marks, "PATIENCE", 0.1)
    with pytest.raises(RunError, match="it reported nothing for"):
        measure([sys.executable, "-c", "import time; time.sleep(60)"], [CORE], 1, tmp_path / "log")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a core to stray to")
def test_what_leaves_its_cores_is_refused(tmp_path) -> None:
    with pytest.raises(RunError, match=rf"not on \[{CORE}\] alone"):
        run_driver(tmp_path, "strays", seconds=0.05)


def test_a_late_reader_measures_the_same(tmp_path, monkeypatch) -> None:
    """The parent sleeps while marks pile up: steps, wall and processor time still belong together."""
    read = marks._read

    def late(read_end: int) -> bytes:
        time.sleep(0.5)
        return read(read_end)

    monkeypatch.setattr(marks, "_read", late)
    _, usage = run_driver(tmp_path, "sleeps", seconds=0.5)
    assert usage.wall >= 0.5 and usage.steps / usage.wall <= 100 / 0.1


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


def test_a_command_that_is_stopped_is_ended(tmp_path) -> None:
    command = [sys.executable, "-c", DRIVER, "sleeps"]
    stop = Stop()
    stop.asked = True
    with reports(command, [CORE], tmp_path / "log", stop) as (session, lines):
        assert session_members(session)
        with pytest.raises(RunError, match="stopped"):
            next(lines)
    assert not session_members(session)


# Pairs


def test_speeds_are_medians_and_the_ratio_is_that_of_rounds() -> None:
    """The machine is half as fast in the second round and the peer unlucky in the third."""
    rounds = usages(((1000, 10, 10), (3000, 10, 10)), ((500, 10, 10), (1500, 10, 10)), ((250, 10, 10), (3000, 10, 10)))
    assert speed(rounds, "cpu") == (50, 300, 3, 3, 12)
    assert speed(usages(((100, 4, 2), (100, 1, 5))), "cpu") == (50, 20, 0.4, 0.4, 0.4)
    assert speed(usages(((100, 4, 2), (100, 1, 5))), "wall") == (25, 100, 4, 4, 4)


def test_a_round_is_the_peer_and_then_ours(monkeypatch, capsys) -> None:
    order = []

    def measured(command, cores, seconds, log):
        order.append(log.name)
        ours = log.name == "ours.log"
        return {"settings": {"side": log.name}}, Usage(30 if ours else 10, 2.0, 1.0)

    monkeypatch.setattr(peers, "measure", measured)
    options = argparse.Namespace(rounds=2, seconds=1.0)
    found = peers.compare(COMPARISONS[0], peers.FOLDER / "python", [], [CORE], options)
    assert order == ["peer.log", "ours.log"] * 2
    assert found["peer"]["settings"] == {"side": "peer.log"} and found["ours"]["settings"] == {"side": "ours.log"}
    assert found["rounds"] == usages(((10, 2.0, 1.0), (30, 2.0, 1.0))) * 2
    said = capsys.readouterr().out.splitlines()
    assert ["round 1 of 2" in said[0], "round 2 of 2" in said[1]] == [True, True] and "ratio 3.00" in said[1]


# Installing


@pytest.mark.parametrize("uv", [None, "/bin/uv"])
def test_an_environment_is_made_once_for_its_list(tmp_path, monkeypatch, uv) -> None:
    ran = []

    def run(command):
        ran.append(command)
        if "venv" in command:
            (tmp_path / "venv/bin").mkdir(parents=True)
            (tmp_path / "venv/bin/python").touch()

    monkeypatch.setattr(venvs, "_run", run)
    monkeypatch.setattr(venvs.shutil, "which", lambda name: uv)
    python = tmp_path / "venv/bin/python"
    for _ in range(2):
        assert ensure("some-peer", ["a-package"], tmp_path) == python
    assert len(ran) == 2 and ran[0][-1] == str(tmp_path / "venv")
    assert ran[0][:2] == ([uv, "venv"] if uv else [sys.executable, "-m"])
    assert ran[1][:3] == ([uv, "pip", "install"] if uv else [str(python), "-m", "pip"])
    torch_here, package = ran[1][-2:]
    assert package == "a-package" and torch_here == f"torch=={torch.__version__.partition('+')[0]}"
    ensure("some-peer", ["another"], tmp_path)
    assert len(ran) == 4


def test_an_interrupted_installation_is_made_anew(tmp_path, monkeypatch) -> None:
    def fails(command):
        (tmp_path / "venv/bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "venv/bin/python").touch()
        if "install" in command:
            raise RunError("no network")

    monkeypatch.setattr(venvs, "_run", fails)
    for _ in range(2):
        with pytest.raises(RunError, match="no network"):
            ensure("some-peer", ["a-package"], tmp_path)


def test_what_the_installer_calls_the_error() -> None:
    assert reason("WARNING: old\nERROR: no version\nERROR: No matching distribution\nhint: none\n").startswith(
        "No match"
    )
    assert reason("first\nlast\n") == "last" and reason("") == "the installer printed nothing"
    assert reason("error: no such release\n") == "no such release"


def test_what_cannot_be_installed_is_one_line_and_the_rest_goes_on(tmp_path, monkeypatch, capsys) -> None:
    """pip with no index to ask, which knows no package at all."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(venvs.shutil, "which", lambda name: None)
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    monkeypatch.setitem(PEERS, "nowhere", Peer("nowhere", "driver.py", ("no-such-package",)))
    monkeypatch.setitem(PEERS, "needless", Peer("needless", "driver.py", ()))
    run = venvs._run

    def run_with_this_pip(command):
        if "no-such-package" in command:
            run([sys.executable, *(part for part in command[1:] if not part.startswith("torch=="))])

    monkeypatch.setattr(venvs, "_run", run_with_this_pip)
    skipped = {}
    pythons = peers.install(["nowhere", "needless"], skipped)
    assert list(pythons) == ["needless"] and list(skipped) == ["nowhere"]
    assert skipped["nowhere"].startswith("could not be installed: No matching distribution found")
    assert f"nowhere: {skipped['nowhere']}" in capsys.readouterr().out.splitlines()


# The table


def figures(**more) -> dict:
    settings = {"rule": "PPO", "core": "lstm", "hidden": 128, "envs": 32, "unroll": 16, "minibatches": 8, "passes": 4}
    comparison = {
        "name": "a-peer-lstm",
        "library": "a-peer",
        "peer": {"settings": settings, "versions": {"torch": "2.9"}},
        "ours": {"settings": settings | {"rule": "V-MPO", "arithmetic": "bfloat16"}, "versions": {"torch": "2.8"}},
        "rounds": usages(((1000, 5, 4), (3000, 3, 3)), ((1000, 5, 4), (6000, 3, 3)), ((1000, 5, 4), (4500, 3, 3))),
    }
    about = {"game": "Pong", "rounds": 3, "seconds": 20.0, "cores": 1, "command": ["python", "-m", "results.peers"]}
    about |= {"machine": {"processor": "a chip", "cores": 2}, "skipped": {"b-peer": "could not be installed"}}
    return about | {"comparisons": [comparison]} | more


def test_the_table() -> None:
    page = table(figures())
    row = next(line for line in page.splitlines() if line.startswith("| a-peer"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["a-peer, PPO", "LSTM 128", "32 x 16", "4 x 8"]
    assert cells[4:] == ["250", "1,500", "6.00 [4.00, 8.00]", "200", "1,500", "7.50"]
    assert "- Not measured: b-peer: could not be installed." in page
    assert (
        "Medians of 3 rounds of 20 s" in page
        and "a chip, 2 cores" in page
        and "Versions: torch 2.8, torch 2.9." in page
    )
    assert table(figures(comparisons=[])) == "- Not measured: b-peer: could not be installed."


def test_what_is_kept_is_shown(tmp_path) -> None:
    assert overview(tmp_path) == ""
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers/peers.json").write_text(json.dumps(figures()))
    assert overview(tmp_path).endswith("Measured by `python -m results.peers`.")


# What is compared


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda comparison: comparison.name)
def test_both_sides_have_the_same_batch(comparison) -> None:
    assert (DRIVERS / comparison.peer.driver).exists()
    config, _ = parse("atari", comparison.our_flags)
    theirs = dict(zip(comparison.peer_flags[::2], comparison.peer_flags[1::2], strict=True))
    for name in ("envs", "unroll", "minibatches", "passes"):
        assert str(getattr(config.training, name)) == theirs[f"--{name}"]
    assert (config.network.core, str(config.network.embedding)) == (theirs["--core"], theirs["--hidden"])


def test_drivers_do_not_import_the_project() -> None:
    rooms = ("agents", "envs", "networks", "results", "runners")
    for path in DRIVERS.glob("*.py"):
        for line in path.read_text().splitlines():
            assert not (line.startswith(("import ", "from ")) and line.split()[1].split(".")[0] in rooms), path


# The peer of our own writing


@pytest.fixture
def cleanrl_style(monkeypatch):
    monkeypatch.syspath_prepend(str(DRIVERS))
    return importlib.import_module("cleanrl_style")


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
        (["--rounds", "0"], "at least 1"),
        (["--seconds", "0"], "greater than 0"),
        (["--cores", "1000"], "--cores must lie in 1.."),
        (["--peers", "rllib"], "rllib"),
        (["--precison", "float32"], "--precision"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, says) -> None:
    with pytest.raises(UsageError, match=says) as error:
        peers.main(flags)
    assert "\n" not in str(error.value)


def test_the_command_keeps_what_was_measured(tmp_path, monkeypatch, capsys) -> None:
    """One comparison fails, the others are written and shown; with none left it is a failure."""

    def compare(comparison, *_):
        if comparison.core == "lstm":
            raise RunError("it ended with exit code 1: no memory")
        return figures()["comparisons"][0]

    monkeypatch.setattr(peers, "install", lambda names, skipped: dict.fromkeys(names))
    monkeypatch.setattr(peers, "compare", compare)
    target = tmp_path / "new/peers.json"
    assert peers.main(["--peers", "cleanrl-style", "--json", str(target)]) == 0
    written = json.loads(target.read_text())
    assert len(written["comparisons"]) == len(written["skipped"]) == 2
    assert written["versions"]["torch"] and "no memory" in capsys.readouterr().out
    with pytest.raises(RunError, match="nothing was measured: it ended with exit code 1"):
        peers.main(["--peers", "sb3-contrib"])


def test_commands_are_kept_as_a_user_would_type_them(monkeypatch) -> None:
    ran = []

    def measured(command, cores, seconds, log):
        ran.append(command)
        return {"settings": {}}, Usage(100, 2.0, 1.0)

    monkeypatch.setattr(peers, "measure", measured)
    options = argparse.Namespace(rounds=1, seconds=1.0)
    python = peers.FOLDER / "cleanrl-style/venv/bin/python"
    found = peers.compare(COMPARISONS[0], python, ["--precision", "float32"], [CORE], options)
    assert found["peer"]["command"][0] == "runs/peers/cleanrl-style/venv/bin/python" == ran[0][0]
    assert found["ours"]["command"][:4] == ["python", "-m", "results.peers.ours", "atari"]
    assert ran[1][1:] == found["ours"]["command"][1:] and ran[1][-2:] == ["--precision", "float32"]
    assert ran[0][2:] == COMPARISONS[0].peer_flags


def test_signals_reach_every_process() -> None:
    """One that ignores SIGTERM is killed."""
    ignores = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", ignores], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    end(process, patience=0.2)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
