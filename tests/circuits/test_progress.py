"""Progress shows up on stderr, and only for work that takes its time."""

import time

from circuits.progress import track


def test_short_work_shows_nothing(capfd):
    assert list(track([1, 2, 3], "counting", 3)) == [1, 2, 3]
    assert capfd.readouterr() == ("", "")


def test_work_longer_than_a_second_is_named_on_stderr(capfd):
    for _ in track(range(3), "waiting", 3):
        time.sleep(0.6)
    out, err = capfd.readouterr()
    assert out == ""
    assert "waiting" in err
    assert "3/3" in err or "2/3" in err
