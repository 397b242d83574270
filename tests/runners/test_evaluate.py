"""The command that evaluates a run: protocols, tables of episodes, videos, a look at attention."""

import csv
import json
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.config import EnvConfig
from envs.interface import EnvError
from envs.protocols import described, under
from runners import attention, control, evaluate, evaluation
from runners.config import AtariEnv, RunConfig, to_dict
from runners.errors import RunError, UsageError, describe, main_guard
from runners.records import video
from runners.records.checkpoint import Checkpoints
from runners.records.video import encode_mp4, ffmpeg, write_video
from support.runs import batches, small, small_atari


def begun(config: RunConfig, folder: Path) -> Path:
    """The folder of a run that has seen a batch."""
    training = batches(config, 1)
    folder.mkdir(exist_ok=True)
    Checkpoints(folder / "checkpoints").save_last(training.steps, training.get_state())
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "evaluation.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ("noop30", "protocol noop30: up to 30 no-ops at the start, no sticky actions"),
        ("sticky", "protocol sticky: at most one no-op at the start, sticky actions 0.25"),
        ("deterministic", "protocol deterministic: at most one no-op at the start, no sticky actions"),
    ],
)
def test_a_protocol_sets_what_is_left_to_chance_whatever_the_run_had(protocol: str, says: str) -> None:
    for trained in (EnvConfig(), EnvConfig(noop_max=7, sticky_actions=0.1, eval_sticky_actions=0.5)):
        config = under(replace(trained, episodic_life=True), protocol).evaluated
        assert described(config) == says
        assert (config.noop_max, config.sticky_actions) == {
            "noop30": (30, 0), "sticky": (0, 0.25), "deterministic": (0, 0)
        }[protocol]  # fmt: skip
        assert config.episodic_life and config.name == "Pong"


def test_rules_without_a_name_are_described_too() -> None:
    config = EnvConfig(noop_max=7, eval_sticky_actions=0.5)
    assert described(config) == "up to 7 no-ops at the start, sticky actions 0.5"


def test_nothing_left_to_chance_is_the_same_episode_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """And its returns, lengths and score are the same in the JSON, the CSV and the printed line."""
    config = small_atari("Breakout", eval_policy="mode")
    config = replace(config, env=AtariEnv(name="Breakout", max_episode_frames=1200))
    folder = begun(config, tmp_path)
    assert evaluate.main([str(folder), "--episodes", "3", "--protocol", "deterministic"]) == 0
    result = json.loads((folder / "evaluation.json").read_text())
    assert len(set(result["returns"])) == len(set(result["lengths"])) == 1 and result["lengths"][0] <= 300
    assert "protocol deterministic: at most one no-op at the start, no sticky actions" in result["protocol"]
    score = 100 * (result["mean"] - 1.7) / (30.5 - 1.7)
    assert result["human_normalised"] == pytest.approx(score)
    assert f"human-normalised {score:.1f}%, " in capsys.readouterr().out
    expected = [
        {"env": "Breakout", "policy": "mode", "episode": str(i), "environment": str(i), "return": str(r),
         "length": str(n), "cut": "0"}
        for i, (r, n) in enumerate(zip(result["returns"], result["lengths"], strict=True))
    ]  # fmt: skip
    assert rows(folder) == expected


def test_a_row_for_each_episode_of_each_policy_and_game(tmp_path: Path) -> None:
    config = small_atari("Pong,Breakout", eval_policy="both")
    config = replace(config, env=replace(config.env, max_episode_frames=400))
    folder = begun(config, tmp_path)
    assert evaluate.main([str(folder), "--episodes", "2"]) == 0
    result = json.loads((folder / "evaluation.json").read_text())
    found = [(row["env"], row["policy"], row["episode"]) for row in rows(folder)]
    assert found == [(e, p, i) for p in ("sample", "mode") for e in ("Pong", "Breakout") for i in "01"]
    pong = result["games"]["Pong"]
    assert pong["human_normalised"] == pytest.approx(100 * (pong["mean"] + 20.7) / (14.6 + 20.7))
    assert {row["length"] for row in rows(folder)} == {"100"}


def test_lengths_are_agent_steps_and_cut_episodes_are_marked(tmp_path: Path) -> None:
    folder = begun(small("feedforward", "recall-3", eval_steps=40), tmp_path)
    assert evaluate.main([str(folder), "--episodes", "4"]) == 0
    assert [row["length"] for row in rows(folder)] == ["5"] * 4 and {row["cut"] for row in rows(folder)} == {"0"}
    assert evaluate.main([str(folder), "--episodes", "12"]) == 0  # 40 steps of 12 are fewer than 5 of each
    cut = rows(folder)
    assert [row["environment"] for row in cut] == [str(i) for i in range(12)]
    assert {row["cut"] for row in cut} == {"1"} and all(int(row["length"]) < 5 for row in cut)


@pytest.mark.parametrize(
    ("core", "flags", "says"),
    [
        ("gtrxl", ["--protocol", "sticky"], "--protocol sticky is for Atari games, and CartPole-v1 is none"),
        ("gtrxl", ["--protocol", "stickie"], "--protocol"),
        ("lstm", ["--attention"], "--attention is for transformers (trxl, trxl-i, gtrxl), and this run's core is lstm"),
        ("gtrxl", ["--episodes", "0"], "--episodes must be at least 1, not 0"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    core: str, flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(to_dict(small(core))))
    with pytest.raises(SystemExit) as stop:
        main_guard(evaluate.main, [str(tmp_path), *flags])
    line, *more = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and says in line and not more


ASKED = {
    "--episodes": ("1", "3", "0", "-1", "x", "1.5", ""),
    "--checkpoint": ("latest", "best", "step_3"),
    "--policy": ("mode", "sample", "both", "greedy"),
    "--protocol": ("noop30", "sticky", "deterministic", "none"),
    "--seed": ("0", "7", "-1", "2147483648", "0.5"),
    "--video": (),
    "--attention": (),
}
"""Options of the command, and what may be written after them."""


def test_any_command_line_plays_or_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """On a task without pictures, with a transformer and without: what cannot be had is said, and nothing is lost."""
    hypothesis = pytest.importorskip("hypothesis")
    st, ends = hypothesis.strategies, Counter()
    folders = [begun(small(core, "recall-3"), tmp_path / core) for core in ("gtrxl", "lstm")]

    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
    @hypothesis.given(
        st.sampled_from(folders), st.lists(st.sampled_from(sorted(ASKED)), unique=True, max_size=4), st.data()
    )
    def check(folder: Path, names: list[str], data: st.DataObject) -> None:
        argv = [part for name in names for part in (name, *(ASKED[name] and [data.draw(st.sampled_from(ASKED[name]))]))]
        result = folder / "evaluation.json"
        result.unlink(missing_ok=True)
        code = 0
        try:
            evaluate.main([str(folder), *argv])
        except (UsageError, RunError, EnvError) as error:
            code, line = describe(error)
            assert line and "\n" not in line and "--" in line, (argv, line)
            assert code == 2 or "best" in argv, (argv, line)  # there is no best checkpoint in these folders
        ends[code] += 1
        assert result.exists() == (code == 0), argv

    check()
    assert min(ends[0], ends[2]) > 10


def test_the_command_plays_100_episodes() -> None:
    assert evaluate.Options("somewhere").episodes == 100


@pytest.mark.parametrize("core", ["gtrxl", "trxl"])
def test_attention_is_recorded_along_an_episode(core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks as in one piece: all weights on places that a step of the episode fills, none elsewhere."""
    folder, found = begun(small(core, "recall-20"), tmp_path), []
    for chunk in (64, 7):
        monkeypatch.setattr(attention, "CHUNK", chunk)
        assert evaluate.main([str(folder), "--episodes", "1", "--attention"]) == 0
        with np.load(folder / "attention.npz") as arrays:
            found.append(dict(arrays))
    whole, pieces = found
    weights = whole["attention"]
    assert weights.shape == (2, 2, 22, 13)  # layers, heads, N + 2 steps, a memory of 12 and the step itself
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    age, step = np.arange(12, -1, -1), np.arange(22)[:, None]
    assert not weights[..., age > step].any() and weights[..., age <= step].all()
    np.testing.assert_allclose(pieces["attention"], weights, atol=1e-5)
    if core == "gtrxl":
        assert whole["openness"].shape == (2, 2, 22) and 0 < whole["openness"].min() < whole["openness"].max() < 1
        np.testing.assert_allclose(pieces["openness"], whole["openness"], atol=1e-5)
    else:
        assert set(whole) == {"attention"}
    with Image.open(folder / "attention.png") as picture:
        assert picture.format == "PNG" and len(np.unique(np.asarray(picture).reshape(-1, 4), axis=0)) > 50


def test_a_video_is_an_mp4_only_where_something_encodes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = begun(small("feedforward", "recall-3"), tmp_path), []
    monkeypatch.setattr(evaluate, "record_video", lambda config, network, path: asked.append(path.name))
    for there in (None, "/usr/bin/ffmpeg"):
        monkeypatch.setattr(evaluate, "ffmpeg", lambda there=there: there)
        assert evaluate.main([str(folder), "--episodes", "1", "--video"]) == 0
    assert asked == ["evaluation.gif", "evaluation.mp4"]


def test_a_failing_ffmpeg_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "ffmpeg", lambda: "false")
    with pytest.raises(RunError, match="^ffmpeg makes no video: "):
        encode_mp4(np.zeros((2, 8, 8, 3), np.uint8), 30)


@pytest.mark.skipif(ffmpeg() is None, reason="there is no ffmpeg here")
def test_an_mp4_reads_back_frame_by_frame(tmp_path: Path) -> None:
    frames = np.zeros((10, 35, 60, 3), np.uint8)  # an odd height
    for t in range(10):
        frames[t, :, 6 * t : 6 * t + 6] = (200, 60, 20)
    assert write_video(tmp_path / "a.mp4", frames, fps=10) == (tmp_path / "a.mp4").read_bytes()
    command = f"{ffmpeg()} -loglevel error -i {tmp_path}/a.mp4 -f rawvideo -pix_fmt rgb24 -".split()
    read = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    read = read.reshape(10, 36, 60, 3)[:, :35].astype(int)
    assert np.abs(read - frames).mean() < 12
    assert read[5, 17, 32, 0] > 150 and read[5, 17, 10].max() < 60


def test_an_episode_that_is_watched_is_seen_step_by_step() -> None:
    config = small("feedforward", "recall-3")
    seen = []
    how = evaluation.play_one(config, batches(config, 1).network, lambda env, player, step: seen.append(step.first[0]))
    assert seen == [True] + 4 * [False] and how.startswith("5 steps, return ")


def test_by_default_it_plays_the_weights_of_the_final_evaluation(tmp_path, monkeypatch):
    """The best in the evaluations while training, if the run has any."""
    monkeypatch.chdir(tmp_path)
    flags = [
        "--env",
        "CartPole-v1",
        "--core",
        "feedforward",
        "--steps",
        "2048",
        "--actors",
        "0",
        "--eval-episodes",
        "2",
    ]
    for name, evaluations, played in (("with", "1", "best.safetensors"), ("without", "0", "step_")):
        assert control.main([*flags, "--evaluations", evaluations, "--run-dir", name]) == 0
        evaluate.main([name, "--episodes", "2"])
        assert json.loads((tmp_path / name / "evaluation.json").read_text())["checkpoint"].startswith(played)
