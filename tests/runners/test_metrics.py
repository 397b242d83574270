"""Metrics read back by other programs: csv, TensorBoard's own reader, pillow."""

import csv
import io
import re
import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from runners.records import video
from runners.records.metrics import CsvLog, TensorBoardLog
from runners.records.video import encode_gif, write_video

NAN = float("nan")


def table(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in rows)  # no row longer or shorter than the header
    return rows


def events(folder) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return accumulator.Reload()


def points(accumulator, name) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_columns_may_join_and_missing_values_are_empty_cells(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv")
    log.write(10, {"value/loss": 0.1, "return/train": NAN})
    log.write(20, {"return/train": -20.5, "e_step/eta": 1.0})
    log.write(30, {"e_step/eta": None})
    assert table(tmp_path / "metrics.csv") == [
        {"steps": "10", "value/loss": "0.1", "return/train": "", "e_step/eta": ""},
        {"steps": "20", "value/loss": "", "return/train": "-20.5", "e_step/eta": "1.0"},
        {"steps": "30", "value/loss": "", "return/train": "", "e_step/eta": ""},
    ]


@pytest.mark.parametrize("cut", ["", "4", "40,0.", "\n"])
def test_a_table_resumes_without_the_rows_past_the_checkpoint(tmp_path, cut):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path)
    for step in (10, 20, 30):
        log.write(step, {"a": step / 100, "b": 1})
    with open(path, "a") as file:  # a kill leaves a row half written
        file.write(cut)
    resumed = CsvLog(path, resumed_step=20)
    resumed.write(25, {"b": 2, "c": 3})
    assert [(row["steps"], row["a"], row["b"], row["c"]) for row in table(path)] == [
        ("10", "0.1", "1", ""),
        ("20", "0.2", "1", ""),
        ("25", "", "2", "3"),
    ]
    CsvLog(path)
    assert table(path) == []


def test_a_float_reads_back_to_the_bit(tmp_path):
    CsvLog(tmp_path / "metrics.csv").write(1, {"x": 0.1 + 0.2})
    assert float(table(tmp_path / "metrics.csv")[0]["x"]) == 0.1 + 0.2


def test_scalars_are_at_their_agent_steps_and_a_resumed_run_hides_the_past_that_did_not_happen(tmp_path):
    with TensorBoardLog(tmp_path) as log:
        for step in (100, 200, 300):
            log.scalars(
                step,
                {
                    "return/train": step,
                    "e_step/eta": NAN if step == 100 else 0.5,
                    "m_step/alpha": None,
                    "frames": 4 * step,
                },
            )
    assert points(events(tmp_path), "return/train") == [(100, 100), (200, 200), (300, 300)]
    time.sleep(1)  # event files are read in the order of their names, which tell the second
    with TensorBoardLog(tmp_path, resumed_step=200) as log:
        log.scalars(250, {"return/train": -1})
    accumulator = events(tmp_path)
    assert points(accumulator, "return/train") == [(100, 100), (200, 200), (250, -1)]
    assert points(accumulator, "e_step/eta") == [(200, 0.5)]
    assert set(accumulator.Tags()["scalars"]) == {"return/train", "e_step/eta"}


def test_every_chart_of_the_layout_finds_what_is_logged(tmp_path):
    names = [
        "return/train",
        "m_step/entropy",
        "value/loss",
        "value/popart_std",
        "e_step/eta",
        "e_step/ess_share",
        "e_step/kl",
    ]
    names += ["m_step/learning_rate", "m_step/alpha_mean", "m_step/kl_std", "memory/length", "speed/steps_per_second"]
    with TensorBoardLog(tmp_path) as log:
        log.scalars(1, dict.fromkeys(names, 1.0))
    layout = layout_pb2.Layout.FromString(
        events(tmp_path).Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    charts = [chart for category in layout.category for chart in category.chart]
    assert len(charts) >= 8
    for chart in charts:
        assert any(re.match(expression, name) for expression in chart.multiline.tag for name in names), chart.title


def test_hyperparameters_belong_to_the_run_itself(tmp_path):
    with TensorBoardLog(tmp_path) as log:
        settings = {"core": "gtrxl", "layers": 2, "epsilon_eta": 0.02, "compile": False, "widths": (1, 2), "gate": None}
        log.hyperparameters(settings)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    content = events(tmp_path).PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
    assert (start["core"].string_value, start["layers"].number_value) == ("gtrxl", 2)
    assert start["compile"].string_value == "False"
    assert (start["epsilon_eta"].number_value, start["widths"].string_value) == (0.02, "(1, 2)")
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["return/train"]
    assert "_hparams_/session_end_info" in content


def moving_square(length: int) -> np.ndarray:
    frames = np.zeros((length, 84, 120, 3), np.uint8)
    frames[..., 0] = 90
    for t in range(length):
        frames[t, 20:30, t % 100 : t % 100 + 10] = (250, 250, 20)
    return frames


def test_a_video_reads_back_from_tensorboard_frame_by_frame(tmp_path):
    frames = moving_square(30)
    gif = write_video(tmp_path / "episode.gif", frames, fps=15)
    assert (tmp_path / "episode.gif").read_bytes() == gif and len(list(tmp_path.iterdir())) == 1
    with TensorBoardLog(tmp_path) as log:
        log.video(1234, "episode/video", gif)
    (event,) = events(tmp_path).Images("episode/video")
    assert (event.step, event.width, event.height, event.encoded_image_string) == (1234, 120, 84, gif)
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        assert image.n_frames == 30 and image.info["loop"] == 0
        for t in (0, 7, 29):
            image.seek(t)
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames[t]).max() <= 8
            assert image.info["duration"] == 70


def test_a_long_noisy_video_leaves_out_frames_evenly_and_keeps_time(monkeypatch):
    monkeypatch.setattr(video, "MAX_BYTES", 30_000)
    frames = np.random.default_rng(0).integers(0, 256, (60, 40, 40, 3), np.uint8)
    gif = encode_gif(frames, fps=60)
    assert len(gif) <= 30_000
    with Image.open(io.BytesIO(gif)) as image:
        seconds = 0.0
        for t in range(image.n_frames):
            image.seek(t)
            seconds += image.info["duration"] / 1000
    assert image.n_frames >= 8 and seconds == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3))]
)
def test_frames_of_another_kind_are_refused(frames):
    with pytest.raises(ValueError, match="frames must be uint8"):
        encode_gif(frames, 30)
