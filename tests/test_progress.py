"""How far a loop is, in a log and on a terminal."""

import io
import sys

from slab_det.progress import progress


def test_a_log_has_a_line_per_tenth(capsys):
    assert list(progress(range(25), 'images')) == list(range(25))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0] == 'images: 3 of 25' and lines[-1] == 'images: 25 of 25'


def test_few_items_have_a_line_each_when_they_are_done(capsys):
    loop = progress([7, 8], 'passes')
    assert next(loop) == 7 and capsys.readouterr().out == ''
    assert next(loop) == 8 and capsys.readouterr().out == 'passes: 1 of 2\n'
    assert list(loop) == [] and capsys.readouterr().out == 'passes: 2 of 2\n'


def test_without_a_length_the_number_is_told_at_the_end(capsys):
    assert list(progress(iter('abc'), 'letters')) == ['a', 'b', 'c']
    assert capsys.readouterr().out == 'letters: 3\n'


def test_nothing_to_do_shows_nothing(capsys):
    assert list(progress([], 'images')) == [] and capsys.readouterr().out == ''


def test_a_terminal_has_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, 'stdout', terminal)
    monkeypatch.setenv('TERM', 'xterm')
    assert list(progress([1, 2], 'images')) == [1, 2]
    assert 'images' in terminal.getvalue() and '100%' in terminal.getvalue()
