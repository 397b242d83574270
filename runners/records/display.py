"""Live progress: a panel that redraws itself on a terminal, a line every ten seconds anywhere else."""

import math
import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runners.records.tracker import Rate

# Metrics and their labels. A Gaussian policy has `m_step/kl_mu` in the place of `m_step/kl`.
FIELDS = {
    "steps": "steps",
    "frames": "frames",
    "speed/frames_per_second": "frames/s",
    "return/train": "mean return",
    "e_step/eta": "eta",
    "m_step/alpha": "alpha",
    "m_step/kl": "KL",
    "m_step/entropy": "entropy",
}
LINE_SECONDS = 10.0


class Display:
    """Context that shows progress towards a `total` of the first of `fields`; `update` may be called at any rate.

    A row has metrics by name. Those of `fields` are shown, None and NaN as "-"; one that is missing keeps its last
    value. The terminal is restored however the context ends.
    """

    def __init__(
        self, total: int, title: str, console: Console | None = None, fields: Mapping[str, str] = FIELDS
    ) -> None:
        self._total, self._title, self._fields = total, title, fields
        self._counter = next(iter(fields))
        self._console = console or Console()
        self._row: dict[str, float | int | None] = {}
        self._rate, self._seconds_left = Rate(window=60.0), math.nan
        self._next_line, self._pending = 0.0, False
        on_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4)
        self._live = live if on_terminal else None

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        else:
            self._print(self._title)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        elif self._pending:
            self._print(self._line())

    def update(self, row: Mapping[str, float | int | None]) -> None:
        self._row.update(row)
        if count := row.get(self._counter):
            speed = self._rate.update(count)
            self._seconds_left = max(0, self._total - count) / speed if speed > 0 else math.nan
        if self._live or not row:
            return  # a terminal redraws itself
        if time.monotonic() >= self._next_line:
            self._print(self._line())
            self._next_line, self._pending = time.monotonic() + LINE_SECONDS, False
        else:
            self._pending = True

    def _cells(self) -> dict[str, str]:
        row = self._row
        cells = {label: _number(row.get(name, row.get(f"{name}_mu"))) for name, label in self._fields.items()}
        cells[self._fields[self._counter]] += f"/{self._total:,}"
        return {**cells, "time left": _clock(self._seconds_left)}

    def _line(self) -> str:
        return "  ".join(f"{label} {text}" for label, text in self._cells().items())

    def _panel(self) -> Panel:
        table = Table.grid(expand=True, padding=(0, 1))
        cells = list(self._cells().items())
        for _ in range(3):
            table.add_column(style="dim", no_wrap=True)
            table.add_column(justify="right", no_wrap=True)
        for start in range(0, len(cells), 3):
            table.add_row(*(text for cell in cells[start : start + 3] for text in cell))
        content = Table.grid(expand=True)
        content.add_row(ProgressBar(self._total, self._row.get(self._counter) or 0))
        content.add_row(table)
        return Panel(content, title=Text(self._title), title_align="left")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _number(value: float | int | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def _clock(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
