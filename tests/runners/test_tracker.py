"""Episode statistics and speed against brute force; the plain display against its promise not to flood a log."""

import io

import numpy as np
import pytest
from rich.console import Console

from runners.records import display
from runners.records.display import Display
from runners.records.tracker import EpisodeTracker, Rate


def test_the_last_hundred_episodes_and_no_others_count():
    rng = np.random.default_rng(0)
    tracker, returns, lengths = EpisodeTracker(capacity=100), [], []
    assert np.isnan(tracker.mean_return) and np.isnan(tracker.mean_length)
    for _ in range(60):
        ended = rng.random((5, 8)) < 0.1
        episode_return = np.where(ended, rng.normal(size=(5, 8)), np.nan)
        length = np.where(ended, rng.integers(1, 500, (5, 8)), 0)
        tracker.add(episode_return, length)
        returns += [episode_return[t, n] for t in range(5) for n in range(8) if ended[t, n]]
        lengths += [length[t, n] for t in range(5) for n in range(8) if ended[t, n]]
        assert tracker.count == len(returns)
        if returns:
            assert tracker.mean_return == pytest.approx(np.mean(returns[-100:]))
            assert tracker.mean_length == pytest.approx(np.mean(lengths[-100:]))
    assert tracker.count > 200


def test_a_tracker_continues_from_its_state():
    def batch(first):
        return np.arange(first, first + 70.0), np.arange(first, first + 70)

    tracker, resumed = EpisodeTracker(), EpisodeTracker()
    tracker.add(*batch(0))
    state = tracker.get_state()
    tracker.add(*batch(70))
    resumed.set_state(state)
    resumed.add(*batch(70))
    assert resumed.mean_return == tracker.mean_return == np.arange(40, 140).mean()
    assert np.nanmax(state["returns"]) == 69  # neither tracker reaches into the state that passed between them


def test_the_rate_is_that_of_the_window():
    now = 0.0
    rate = Rate(window=10.0, clock=lambda: now)
    assert np.isnan(rate.update(1_000_000))  # a resumed run starts from its total
    for second in range(1, 41):
        now = float(second)
        speed = 100 if second <= 20 else 700
        total = 1_000_000 + 100 * min(second, 20) + 700 * max(0, second - 20)
        measured = rate.update(total)
        if not 20 < second < 30:
            assert measured == pytest.approx(speed)


def plain_display(total_steps: int) -> tuple[Display, io.StringIO]:
    file = io.StringIO()
    return Display(total_steps, "V-MPO on [gru]", Console(file=file, width=40)), file


def test_a_log_gets_a_line_every_ten_seconds_and_the_last(monkeypatch):
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    shown, file = plain_display(100_000)
    with shown:
        for update in range(10_000):  # 100 s
            now = 100.0 + update / 100
            shown.update({"steps": 5 * update, "frames": 20 * update})
    lines = file.getvalue().splitlines()
    assert lines[0] == "V-MPO on [gru]"
    assert 10 <= len(lines) - 1 <= 12
    assert "steps 49,995/100,000" in lines[-1] and "frames 199,980" in lines[-1]
    assert "\x1b" not in file.getvalue()


def test_what_is_not_known_is_a_dash():
    shown, file = plain_display(10)
    with shown:
        shown.update({"steps": 4, "return/train": float("nan"), "e_step/eta": None, "m_step/kl_mu": 0.01234})
    line = file.getvalue().splitlines()[-1]
    for part in ("steps 4/10", "mean return -", "eta -", "alpha -", "KL 0.0123", "time left -"):
        assert part in line


def test_a_terminal_shows_every_field_and_has_its_cursor_back_after_an_interrupt():
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        with Display(10, "title", Console(file=file, force_terminal=True, width=80, _environ={})) as shown:
            shown.update({"steps": 5})
            raise KeyboardInterrupt
    for part in ("title", *display.FIELDS.values(), "time left", "5/10"):
        assert part in file.getvalue()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert hide in file.getvalue() and file.getvalue().rindex(show) > file.getvalue().rindex(hide)
