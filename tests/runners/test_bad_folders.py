"""Run folders that fill up, cannot be written, or vanish: one line names the cause, and what was saved stays."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runners import run as run_module
from runners.errors import main_guard
from runners.evaluate import main as evaluate
from runners.launch import main
from runners.lm.launch import main as lm_main
from runners.records.checkpoint import Checkpoints
from runners.records.files import held
from support import ROOT
from support.mounts import small_disk, unwritable

SMALL = "--env CartPole-v1 --core feedforward --envs 4 --unroll 16 --minibatches 2 --embedding 16 --no-video"
SMALL += " --actors 0 --steps 640 --eval-episodes 2 --log-seconds 0"
LM = "--task support.lm_task:TASK --prompts 2 --completions 2 --rollouts 6 --updates 2"
LM += " --eval-prompts 8 --log-rollouts 1"


def control(argv: list[str]) -> int:
    return main("control", [*SMALL.split(), *argv])


def outcome(command: Callable[[list[str]], int], capsys: pytest.CaptureFixture, *argv: str | Path) -> tuple[int, str]:
    """Return the exit code of a command, and what it says on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main_guard(command, list(map(str, argv)))
    return end.value.code or 0, capsys.readouterr().err


def fill(disk: Path, leaving: int) -> Path:
    """Fill a disk until `leaving` bytes are free."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(file.tell() - leaving)
    return filler


def fills_up(monkeypatch: pytest.MonkeyPatch, disk: Path, row: int, name: str = "write") -> None:
    """Let the disk be full from a row of metrics on."""
    before, rows = getattr(run_module.Records, name), 0

    def write(*arguments) -> None:
        nonlocal rows
        rows += 1
        if rows == row:
            fill(disk, 0)
        before(*arguments)

    monkeypatch.setattr(run_module.Records, name, write)


@pytest.mark.parametrize("free, named", [(0, "config.json"), (8192, "metrics.csv"), (65536, "checkpoints/step_000")])
def test_a_disk_that_is_full_at_the_start(free: int, named: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with small_disk(tmp_path / "disk", 2048) as disk:
        filler = fill(disk, free)
        code, said = outcome(control, capsys, "--run-dir", disk / "run")
        assert code == 1 and said.count("\n") == 1
        assert f"no space left to write {disk / 'run' / named}" in said
        filler.unlink()
        assert outcome(control, capsys, "--run-dir", disk / "run") == (0, "")


@pytest.mark.parametrize("checkpoint_seconds", ["0.001", "1000"])
def test_a_disk_that_fills_up_keeps_the_last_checkpoint_and_the_same_command_goes_on(
    checkpoint_seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A row of metrics that is cut short by it is made again."""
    flags = "--checkpoint-seconds", checkpoint_seconds, "--run-dir"
    with small_disk(tmp_path / "disk", 2048) as disk:
        run_dir = disk / "run"
        with monkeypatch.context() as patched:
            fills_up(patched, disk, 5)
            code, said = outcome(control, capsys, *flags, run_dir)
        assert code == 1 and said.count("\n") == 1 and f"no space left to write {run_dir}" in said
        saved = Checkpoints(run_dir / "checkpoints").latest()
        assert not saved.warning and saved.step == (256 if checkpoint_seconds == "0.001" else 64)
        (disk / "filler").unlink()
        assert outcome(control, capsys, *flags, run_dir) == (0, "")
        rows = (run_dir / "metrics.csv").read_text().splitlines()
        assert [int(row.partition(",")[0]) for row in rows[1:]] == list(range(64, 641, 64))
        assert len({row.count(",") for row in rows}) == 1
        assert not list(run_dir.rglob(".*"))


@pytest.mark.parametrize("free", [0, 8192])
def test_a_disk_that_fills_up_before_a_language_model_is_saved(
    free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In a file of settings, or in that of the weights, which another library writes."""
    conclude = run_module._conclude
    with small_disk(tmp_path / "disk", 65536) as disk:
        run = [*LM.split(), "--run-dir", disk / "run"]
        with monkeypatch.context() as patched:
            patched.setattr(run_module, "_conclude", lambda *arguments: (fill(disk, free), conclude(*arguments)))
            code, said = outcome(lm_main, capsys, *run)
        assert code == 1 and said.count("\n") == 1 and "no space left" in said.lower(), said
        assert str(disk / "run/model") in said
        (disk / "filler").unlink()
        assert outcome(lm_main, capsys, *run) == (0, "")
        assert (disk / "run/model/model.safetensors").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Neither by a new run, nor by one that goes on or is evaluated, whose result is printed nevertheless."""
    with unwritable(tmp_path) as why:
        says = f"error: --run-dir {tmp_path / 'run'} cannot be made a folder: {why}\n"
        assert outcome(control, capsys, "--run-dir", tmp_path / "run") == (2, says)
    run_dir = tmp_path / "run"
    assert outcome(control, capsys, "--run-dir", run_dir) == (0, "")
    with unwritable(run_dir) as why:
        code, said = outcome(lambda argv: main("control", argv), capsys, "--resume", run_dir, "--steps", "1280")
        assert code == 1 and said.startswith(f"error: {run_dir}/") and said.endswith(f": {why}\n")
        with pytest.raises(SystemExit):
            main_guard(evaluate, [str(run_dir), "--episodes", "1"])
        said = capsys.readouterr()
        assert said.err == f"error: {run_dir}/evaluation.json: {why}\n" and "at step 640" in said.out


@pytest.mark.parametrize(("below", "why"), [("", "File exists"), ("run", "Not a directory")])
@pytest.mark.parametrize(("command", "flags"), [(control, ""), (lm_main, LM)])
def test_a_file_in_place_of_a_folder(
    command: Callable[[list[str]], int], flags: str, below: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    run_dir = tmp_path / "file" / below
    says = f"error: --run-dir {run_dir} cannot be made a folder: {why}\n"
    assert outcome(command, capsys, *flags.split(), "--run-dir", run_dir) == (2, says)


def test_a_folder_that_is_removed_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A checkpoint without its config.json could not be continued from."""
    write, run_dir = run_module.Records.write, tmp_path / "run"
    monkeypatch.setattr(run_module.Records, "write", lambda *rest: (write(*rest), run_dir.rename(tmp_path / "gone")))
    code, said = outcome(control, capsys, "--run-dir", run_dir)
    assert code == 1 and said.startswith(f"error: {run_dir}/") and said.endswith(": No such file or directory\n")
    assert said.count("\n") == 1 and not run_dir.exists()


def test_settings_that_are_gone_or_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config, folder = tmp_path / "config.json", ["--run-dir", tmp_path]
    assert outcome(control, capsys, *folder) == (0, "")
    (tmp_path / "summary.json").unlink()  # as if it were killed before its end
    config.rename(tmp_path / "kept")
    assert outcome(control, capsys, *folder) == (
        2,
        f"error: {tmp_path} is not the folder of a run: it has no config.json\n",
    )
    config.mkdir()
    assert outcome(control, capsys, *folder) == (1, f"error: {config}: Is a directory\n")
    config.rmdir()
    (tmp_path / "kept").rename(config)
    assert outcome(control, capsys, *folder) == (0, "")


def test_a_run_that_goes_on_is_held_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Else it would go back behind what another process saves meanwhile."""
    assert outcome(control, capsys, "--run-dir", tmp_path) == (0, "")
    monkeypatch.setattr(Checkpoints, "latest", lambda _: pytest.fail("read"))
    with held(tmp_path):
        code, said = outcome(lambda argv: main("control", argv), capsys, "--resume", tmp_path, "--steps", "1280")
    assert (code, said) == (1, f"error: {tmp_path} is the folder of a run that another process goes on with\n")
    assert json.loads((tmp_path / "config.json").read_text())["training"]["steps"] == 640


def test_shared_memory_that_is_full(tmp_path: Path) -> None:
    """In a container it may be small; torch reserves what it takes, so that nothing fails later."""
    run = [sys.executable, "-m", "runners.control", *SMALL.replace("--actors 0", "--actors 1").split()]
    small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*small, *run, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "for actors and learner to share" in done.stderr and "make /dev/shm larger" in done.stderr
    assert "take --actors 0" in done.stderr
