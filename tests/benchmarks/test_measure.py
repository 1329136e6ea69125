"""Timing of networks that take turns."""

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import measure


@pytest.fixture
def machine(monkeypatch):
    """A machine with its own clock; the host takes away the time in `lost`, run by run."""

    class Machine:
        now = stolen = 0.0

        def run(self, name, seconds, lost):
            lost = itertools.chain(lost, itertools.repeat(0.0))

            def call():
                self.order.append(name)
                share = next(lost)
                self.now += seconds / (1 - share)
                self.stolen += share * seconds / (1 - share)

            return call

    machine = Machine()
    machine.order = []
    monkeypatch.setattr(measure.time, 'perf_counter', lambda: machine.now)
    monkeypatch.setattr(measure, '_stolen_seconds', lambda: machine.stolen)
    return machine


def test_networks_take_turns_after_one_run_each(machine):
    times = measure.alternate(
        {'a': machine.run('a', 2.0, []), 'b': machine.run('b', 3.0, [])}, 2, lambda line: None
    )
    assert machine.order == ['a', 'b', 'a', 'b', 'a', 'b']
    assert [timing.seconds for timing in times['b']] == [3.0, 3.0] and times['a'].median == 2.0
    assert measure.busy_host(times) == []


def test_a_run_that_the_host_disturbed_is_repeated(machine):
    # The first run warms up; the second loses half of its time, the third a hundredth.
    times = measure.alternate({'a': machine.run('a', 2.0, [0.0, 0.5, 0.01])}, 1, lambda line: None)
    assert machine.order == ['a'] * 3
    assert [timing.seconds for timing in times['a']] == pytest.approx([2 / 0.99])
    assert times['a'][0].stolen == pytest.approx(0.01) and measure.busy_host(times) == []


def test_on_a_host_that_stays_busy_the_least_disturbed_run_counts_and_the_table_says_so(machine):
    lost = [0.0, 0.5, 0.4, 0.2, 0.3, 0.5, 0.5, 0.1]
    times = measure.alternate({'a': machine.run('a', 1.0, lost)}, 1, lambda line: None)
    assert len(machine.order) == 1 + measure.TRIES
    assert times['a'].fastest == pytest.approx(1 / 0.8)
    assert measure.busy_host(times) == ['', 'The host was busy: it took up to 20% of a run.']


def test_a_size_is_read_as_it_is_written():
    size = measure.Size.parse('800x1216')
    assert (size.height, size.width, str(size)) == (800, 1216, '800x1216')


@pytest.mark.parametrize('text', ['800', '800x', '0x64', '800x1216x3', '-8x8', 'axb'])
def test_a_size_that_is_none_is_refused_by_the_option(text, capsys):
    parser = measure.argparse.ArgumentParser()
    parser.add_argument('--size', type=measure.Size.parse)
    with pytest.raises(SystemExit):
        parser.parse_args([f'--size={text}'])
    assert (
        f'argument --size: {text} is not a height x width in pixels, such as 800x1216'
        in capsys.readouterr().err
    )
