"""Metrics of a run, as a table (metrics.csv) and as TensorBoard events, over agent steps; both can be resumed.

Names begin with their group: `return/train`, `e_step/eta`, `m_step/alpha`, `value/loss`, `memory/...`, `speed/...`.
"""

import csv
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from runners.records.files import naming, write_atomically

Row = Mapping[str, float | int | None]

Layout = dict[str, dict[str, list]]
"""Charts of TensorBoard's custom-scalars page by category, each with a regular expression of its tags."""


def chart(tags: str) -> list:
    return ["Multiline", [tags]]


EM_CHARTS: Layout = {
    "E-step": {
        "eta": chart("e_step/eta.*"),
        "effective sample size": chart("e_step/ess.*"),
        "KL to the anchors": chart("e_step/kl.*"),
    },
    "M-step": {"alpha": chart("m_step/alpha.*"), "KL": chart("m_step/kl.*")},
}
LAYOUT: Layout = {
    "Learning": {
        "return": chart("return/(train|eval.*)"),
        "entropy": chart("m_step/entropy"),
        "value loss": chart("value/loss"),
        "deviation of returns": chart("value/popart_std"),
        "learning rate": chart("m_step/learning_rate"),
    },
    **EM_CHARTS,
    "Memory": {"memory": chart("memory/.*")},
    "Speed": {"steps and frames per second": chart("speed/(steps|frames)_per_second")},
}


class CsvLog:
    """A table with a row for each write, `steps` first; columns may be added later. None, NaN and missing are empty."""

    def __init__(self, path: str | os.PathLike, resumed_step: int = 0):
        """Continue a table at `path` after `resumed_step`; remove later rows, and a last row that a kill cut short."""
        self._path = Path(path)
        self._columns = ["steps"]
        self._write([row for row in self._read() if int(row["steps"]) <= resumed_step])

    def write(self, steps: int, row: Row) -> None:
        """Append a row to the file."""
        new = [name for name in row if name not in self._columns]
        if new:
            rows = self._read()
            self._columns += new
            self._write(rows)
        cells = {name: value for name, value in row.items() if value is not None and not math.isnan(value)}
        with naming(self._path), open(self._path, "a", newline="") as file:
            file.write(self._lines([{**cells, "steps": steps}]))

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        whole_lines = self._path.read_text().rpartition("\n")[0]
        reader = csv.DictReader(io.StringIO(whole_lines))
        self._columns = list(reader.fieldnames or ["steps"])
        return list(reader)

    def _write(self, rows: list[dict[str, str]]) -> None:
        header = {name: name for name in self._columns}
        write_atomically(self._path, self._lines([header, *rows]).encode())

    def _lines(self, rows: list[dict]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue()


class TensorBoardLog:
    """Context for TensorBoard events in `folder`; a resumed run hides those after `resumed_step`."""

    def __init__(self, folder: str | os.PathLike, resumed_step: int = 0, layout: Layout = LAYOUT):
        purge_step = resumed_step + 1 if resumed_step else None
        self._folder = folder
        with naming(folder):
            self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)
            self._writer.add_custom_scalars(layout)
        self._end = None

    def scalars(self, step: int, row: Row) -> None:
        """Write values that are not None or NaN; names without a group are counters, for the table alone."""
        with naming(self._folder):
            for name, value in row.items():
                if "/" in name and value is not None and not math.isnan(value):
                    self._writer.add_scalar(name, value, step)

    def hyperparameters(self, values: Mapping[str, object], metrics: tuple[str, ...] = ("return/train",)) -> None:
        """Put this run on the HParams page with its settings and the last values of `metrics`.

        SummaryWriter.add_hparams would put them into a second run beside this one.
        """
        plain = {name: value if type(value) in (int, float) else str(value) for name, value in values.items()}
        experiment, start, self._end = hparams(plain, dict.fromkeys(metrics, 0.0))
        self._add(experiment)
        self._add(start)

    def video(self, step: int, name: str, gif: bytes) -> None:
        """Write an encoded GIF, which the images page plays."""
        width, height = (int.from_bytes(gif[i : i + 2], "little") for i in (6, 8))
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)
        self._add(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        if self._end is not None:
            self._add(self._end)
        with naming(self._folder):
            self._writer.close()

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, summary: Summary, step: int | None = None) -> None:
        with naming(self._folder):
            self._writer.file_writer.add_summary(summary, step)
