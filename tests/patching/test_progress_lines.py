"""Progress on stderr: bars on a terminal, lines elsewhere, and nothing for short work."""

import sys
import time

import pytest
import torch

from patching import progress
from patching.memory import budget, in_tiles
from patching.progress import Progress, beat, track, within


@pytest.fixture(autouse=True)
def on(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: `clock.append(seconds)`."""
    times = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[-1])
    return times


def test_short_work_shows_nothing(capfd):
    assert list(track([1, 2, 3], "counting", 3)) == [1, 2, 3]
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_a_bar_shows_rate_and_time_left(capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for _ in track(range(3), "waiting", 3):
        time.sleep(0.6)
    out, err = capfd.readouterr()
    assert out == ""
    assert "waiting" in err
    assert "2/3" in err
    assert "it/s" in err or "s/it" in err


def test_without_a_terminal_there_are_lines_with_rate_and_time_left(capfd, clock):
    with Progress("scoring", 100) as done:
        for i in range(1, 31):
            clock.append(i * 2.0)
            done.at(i)
    assert capfd.readouterr().err.splitlines() == [
        "scoring: 1 of 100 (1%), 0.5/s, 03:18 left",
        "scoring: 11 of 100 (11%), 0.5/s, 02:58 left",
        "scoring: 21 of 100 (21%), 0.5/s, 02:38 left",
    ]


def test_slow_work_says_something_every_minute_and_what_was_reused_is_no_speed(capfd, clock):
    with Progress("scoring", 1000, done=500) as work:
        for i in range(1, 5):
            clock.append(i * 31.0)
            work.at(500 + i)
    assert capfd.readouterr().err.splitlines() == [
        "scoring: 501 of 1,000 (50%), 0.0323/s, 4:17:49 left",
        "scoring: 503 of 1,000 (50%), 0.0323/s, 4:16:47 left",
    ]


def test_work_of_unknown_length_and_hidden_work(capfd, clock):
    with Progress("reading", None) as known, Progress("hidden", 10, shown=False) as hidden:
        clock.append(61.0)
        known.at(122)
        hidden.at(5)
    assert capfd.readouterr().err == "reading: 122 done, 2 a second\n"


def test_it_can_be_turned_off(capfd, clock, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with Progress("scoring", 2) as work:
        clock.append(100.0)
        work.at(1)
    assert capfd.readouterr().err == ""


def test_a_notebook_without_widgets_gets_a_bar_of_text(monkeypatch, capfd):
    class ZMQInteractiveShell:
        pass

    class IPython:
        get_ipython = staticmethod(ZMQInteractiveShell)

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    for _ in track(range(2), "drawing", 2):
        time.sleep(0.7)
    assert "drawing" in capfd.readouterr().err


def test_no_work_ends_because_its_progress_is_not_read(clock, monkeypatch):
    def gone(text: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys.stderr, "write", gone)
    with Progress("scoring", 3) as work:
        for i in range(1, 4):
            clock.append(i * 61.0)
            work.at(i)
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track([1, 2], "counting", 2)) == [1, 2]


def test_what_is_inside_an_item_says_how_far_it_is(capfd, clock):
    """A chunk of tiles, of which each has steps: no line of their own, but a share of the whole."""

    def work(span):
        for _ in within(range(2)):
            clock.append(clock[-1] + 10.0)

    for _ in track(range(1), "patching"):
        with budget(1):
            in_tiles(2, 1, torch.device("cpu"), work)
    assert capfd.readouterr().err.splitlines() == [
        "patching: 25%, 00:30 left",
        "patching: 50%, 00:20 left",
        "patching: 75%, 00:10 left",
    ]


def test_what_an_error_has_left_hides_nothing(capfd, clock):
    def fail():
        for _ in track(range(3), "left"):
            raise ValueError

    with pytest.raises(ValueError) as kept:  # whose traceback keeps the loop alive
        fail()
    with Progress("next", 10) as work:
        clock.append(3.0)
        work.at(1)
    beat()
    assert kept and capfd.readouterr().err == "next: 1 of 10 (10%), 0.333/s, 00:27 left\n"


def test_parts_alone_and_work_that_is_hidden_show_nothing(capfd, clock):
    for _ in within(range(3)):
        clock.append(clock[-1] + 100.0)
    with Progress("a worker's", 2, shown=False):
        for _ in track(range(3), "its chunk"):
            clock.append(clock[-1] + 100.0)
    beat()
    assert capfd.readouterr().err == ""


def test_where_nobody_knows_how_much_there_is_runs_are_counted(capfd, clock):
    with Progress("circuits doctor", None):
        for _ in range(3):
            clock.append(clock[-1] + 1.5)
            beat()
        for _ in track(range(2), "evaluating"):
            clock.append(clock[-1] + 9.0)
            beat()
    assert capfd.readouterr().err.splitlines() == [
        "circuits doctor: 2 runs of the model so far",
        "evaluating: 0 of 2 (0%), 1 run of the model so far",
    ]


def test_on_a_terminal_parts_move_the_bar(monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("work", 2) as outer, Progress("part", 4, shown=False) as inner:
        outer.at(1)
        inner.at(2)
        assert outer._bar is not None and outer._bar.n == 1.5 and inner._bar is None
