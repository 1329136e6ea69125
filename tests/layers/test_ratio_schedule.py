import math

import pytest

from slab_det.layers import scheduled_ratio


def test_linear_is_the_line_between_its_ends():
    got = [scheduled_ratio(t, 2, 10, 0.9, 0.1) for t in range(13)]
    line = [0.9 - 0.1 * (t - 2) for t in range(2, 11)]
    assert got == pytest.approx([0.9, 0.9] + line + [0.1, 0.1])


def test_the_papers_decay_is_one_minus_t_over_T():
    assert [scheduled_ratio(t, 0, 5) for t in range(7)] == pytest.approx(
        [1, 0.8, 0.6, 0.4, 0.2, 0, 0]
    )


def test_cosine_is_half_a_period():
    got = [scheduled_ratio(t, 0, 6, 1, 0.2, 'cosine') for t in range(8)]
    wave = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * t / 6)) for t in range(7)]
    assert got == pytest.approx(wave + [0.2])
    assert got[3] == pytest.approx(0.6)


@pytest.mark.parametrize(
    'begin, end, num_steps', [(0, 12, 4), (3, 10, 7), (0, 7, 3), (5, 105, 100)]
)
def test_step_drops_num_steps_times_and_equally(begin, end, num_steps):
    values = [scheduled_ratio(t, begin, end, 1, 0, 'step', num_steps) for t in range(end + 3)]
    for t, value in enumerate(values):
        drops = sum((t - begin) * num_steps >= k * (end - begin) for k in range(1, num_steps + 1))
        assert value == pytest.approx(1 - drops / num_steps)
    assert len(set(values)) == num_steps + 1


@pytest.mark.parametrize('schedule', ['linear', 'cosine', 'step'])
def test_ends_are_exact_and_nothing_leaves_the_interval(schedule):
    values = [scheduled_ratio(t, 1.5, 9.7, 1.0, 0.0, schedule) for t in range(12)]
    assert values[0] == values[1] == 1.0 and values[10] == values[11] == 0.0
    assert values == sorted(values, reverse=True)


def test_unknown_schedule_and_empty_interval_raise():
    with pytest.raises(ValueError, match="schedule='exp'.*linear, cosine, step"):
        scheduled_ratio(0, 0, 1, schedule='exp')
    with pytest.raises(ValueError, match='end=3 does not lie after begin=3'):
        scheduled_ratio(0, 3, 3)
