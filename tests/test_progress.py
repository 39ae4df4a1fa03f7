"""Progress bars: counted always, shown on a terminal alone."""

import sys

import pytest
from rankone._progress import Progress, track


def test_items_pass_through_and_are_not_shown_without_a_terminal(capsys):
    assert list(track([1, 2, 3], "counting")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_unless_it_is_off(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for enabled in (True, False):
        with Progress("counting", 2, enabled=enabled) as progress:
            progress.advance(note="half")
        assert ("counting" in capsys.readouterr().err) is enabled
        assert progress.done == 1


def test_items_without_a_length_need_a_total():
    with pytest.raises(ValueError, match="total must be given"):
        list(track(iter([1]), "counting"))
    assert list(track(iter([1]), "counting", total=1)) == [1]
