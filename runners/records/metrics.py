"""Metrics of a run, as a table (metrics.csv) and as TensorBoard events; both can resume. The x axis is agent steps.

Names carry their group: `return/train`, `e_step/eta`, `m_step/alpha`, `value/loss`, `memory/...`, `speed/...`.
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

from runners.records.files import write_atomically

Row = Mapping[str, float | int | None]

Layout = dict[str, dict[str, list]]
"""The custom-scalars page, what to look at first: charts by category. Each holds the tags that match its expression."""


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
    """A table, a row per write, `steps` first; columns may join later. What is missing, None or NaN is empty."""

    def __init__(self, path: str | os.PathLike, resumed_step: int = 0):
        """Continues a table at `path` after `resumed_step`; later rows go, and a last row that a kill cut short."""
        self._path = Path(path)
        self._columns = ["steps"]
        self._write([row for row in self._read() if int(row["steps"]) <= resumed_step])

    def write(self, steps: int, row: Row) -> None:
        """Appends a row, on disk when this returns."""
        new = [name for name in row if name not in self._columns]
        if new:
            rows = self._read()
            self._columns += new
            self._write(rows)
        cells = {name: value for name, value in row.items() if value is not None and not math.isnan(value)}
        with open(self._path, "a", newline="") as file:
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
    """TensorBoard events in `folder`, a context manager; a resumed run hides what was logged past `resumed_step`."""

    def __init__(self, folder: str | os.PathLike, resumed_step: int = 0, layout: Layout = LAYOUT):
        purge_step = resumed_step + 1 if resumed_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)
        self._writer.add_custom_scalars(layout)
        self._end = None

    def scalars(self, step: int, row: Row) -> None:
        """Writes what is neither None nor NaN under its name; a name without a group is a counter, for the table."""
        for name, value in row.items():
            if "/" in name and value is not None and not math.isnan(value):
                self._writer.add_scalar(name, value, step)

    def hyperparameters(self, values: Mapping[str, object], metrics: tuple[str, ...] = ("return/train",)) -> None:
        """Shows this run on the HParams page with its settings and the last values of `metrics`.

        SummaryWriter.add_hparams would put them into a second run beside this one.
        """
        plain = {name: value if type(value) in (int, float) else str(value) for name, value in values.items()}
        experiment, start, self._end = hparams(plain, dict.fromkeys(metrics, 0.0))
        self._add(experiment)
        self._add(start)

    def video(self, step: int, name: str, gif: bytes) -> None:
        """Writes an encoded GIF, which the images page plays."""
        width, height = (int.from_bytes(gif[i : i + 2], "little") for i in (6, 8))
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)
        self._add(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        if self._end is not None:
            self._add(self._end)
        self._writer.close()

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, summary: Summary, step: int | None = None) -> None:
        self._writer.file_writer.add_summary(summary, step)
