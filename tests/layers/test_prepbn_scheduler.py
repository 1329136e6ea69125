import json
import math

import pytest
import torch
from torch import nn

from slab_det.errors import InputError
from slab_det.layers import PRepBN, PRepBNScheduler, prepbn_modules, set_ratio

C = 6


def network(ratio=1.0):
    model = nn.Sequential(nn.Linear(C, C), PRepBN(C), nn.Sequential(PRepBN(C)))
    set_ratio(model, ratio)
    return model


def ratio_of(model):
    (ratio,) = {float(module.ratio) for module in prepbn_modules(model)}
    return ratio


def ratios_of_training(model, scheduler, iterations):
    found = []
    for _ in range(iterations):
        found.append(ratio_of(model))
        scheduler.step()
    return found


def line(begin, end, length, start=1.0, stop=0.0):
    return [
        start + (stop - start) * min(max((t - begin) / (end - begin), 0), 1) for t in range(length)
    ]


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (dict(), line(0, 16, 20)),
        (dict(end=1.0), line(0, 20, 20)),
        (dict(end=1), [1.0] + [0.0] * 19),
        (dict(begin=0.25, end=0.5), line(5, 10, 20)),
        (dict(begin=3, end=13), line(3, 13, 20)),
        (dict(begin=2, end=0.33), line(2, 6.6, 20)),
        (dict(end=10, start_ratio=0.75, end_ratio=0.25), line(0, 10, 20, 0.75, 0.25)),
        (
            dict(end=10, schedule='cosine'),
            [(1 + math.cos(math.pi * min(t, 10) / 10)) / 2 for t in range(20)],
        ),
        (dict(end=10, schedule='step', num_steps=2), [1.0] * 5 + [0.5] * 5 + [0.0] * 10),
    ],
    ids=str,
)
def test_ratio_of_every_iteration(arguments, expected):
    model = network()
    scheduler = PRepBNScheduler(model, 20, **arguments)
    assert ratios_of_training(model, scheduler, 20) == pytest.approx(expected, abs=1e-6)
    assert [scheduler.ratio_at(t) for t in range(20)] == pytest.approx(expected)


def test_starts_from_the_ratio_in_the_model():
    model = network(0.5)
    scheduler = PRepBNScheduler(model, 10, end=1.0)
    assert ratios_of_training(model, scheduler, 10) == pytest.approx(
        line(0, 10, 10, start=0.5), abs=1e-6
    )


def test_modules_of_a_wrapped_model_are_found():
    model = network()
    scheduler = PRepBNScheduler(nn.ModuleDict(dict(module=model)), 4, end=1.0)
    scheduler.step()
    assert ratio_of(model) == scheduler.get_last_ratio() == 0.75


def test_a_training_may_step_after_its_last_iteration_and_not_beyond():
    model = network()
    scheduler = PRepBNScheduler(model, 3)
    for _ in range(3):
        scheduler.step()
    with pytest.raises(InputError, match='all its steps, total_iters=3: set total_iters'):
        scheduler.step()
    assert ratio_of(model) == 0


def test_deferred_scheduler_leaves_the_model_until_its_first_step():
    model = network(0.5)
    scheduler = PRepBNScheduler(model, 4, start_ratio=1.0, last_iter=None)
    assert ratio_of(model) == 0.5
    scheduler.step()
    assert ratio_of(model) == scheduler.get_last_ratio() == 1.0


def test_begins_at_a_given_iteration():
    model = network()
    scheduler = PRepBNScheduler(model, 10, end=1.0, last_iter=4)
    assert ratio_of(model) == pytest.approx(0.6)
    scheduler.step()
    assert ratio_of(model) == pytest.approx(0.5)


@pytest.mark.parametrize('weights_too', [True, False])
def test_resumed_schedule_goes_on_along_the_same_line(weights_too):
    model = network(0.75)
    scheduler = PRepBNScheduler(model, 20, end=1.0)
    whole = ratios_of_training(model, scheduler, 8)
    state = json.loads(json.dumps(scheduler.state_dict()))
    resumed = network()
    if weights_too:
        resumed.load_state_dict(model.state_dict())
    rest = PRepBNScheduler(resumed, 20, end=20)  # the same point in another word
    rest.load_state_dict(state)
    whole += ratios_of_training(resumed, rest, 12)
    assert whole == pytest.approx(line(0, 20, 20, start=0.75), abs=1e-6)


def test_a_restored_start_is_saved_again():
    first = PRepBNScheduler(network(0.75), 20)
    second = PRepBNScheduler(network(), 20)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(total_iters=40), 'total_iters=40 differs from total_iters=20'),
        (dict(schedule='cosine'), "schedule='cosine' differs from schedule='linear'"),
        (dict(end=0.5), 'end_iter=10.0 differs from end_iter=16.0'),
        (dict(begin=1), 'begin_iter=1 differs from begin_iter=0'),
        (dict(end_ratio=0.5), 'end_ratio=0.5 differs from end_ratio=0.0'),
        (dict(start_ratio=0.5), 'start_ratio=0.5 differs from start_ratio=1.0'),
    ],
    ids=str,
)
def test_the_state_of_another_schedule_is_refused_and_changes_nothing(arguments, message):
    state = PRepBNScheduler(network(), 20).state_dict()
    model = network()
    scheduler = PRepBNScheduler(model, **{**dict(total_iters=20), **arguments})
    before, ratio = scheduler.state_dict(), ratio_of(model)
    with pytest.raises(InputError, match=f'{message} of the state: build PRepBNScheduler with'):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before and ratio_of(model) == ratio


@pytest.mark.parametrize('state', [{}, None, dict(last_epoch=3, base_lrs=[0.1])], ids=str)
def test_what_is_not_its_state_is_refused(state):
    with pytest.raises(InputError, match='is not the state of a PRepBNScheduler: load what'):
        PRepBNScheduler(network(), 20).load_state_dict(state)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(total_iters=0), 'total_iters=0 must be a whole number of at least 1'),
        (dict(total_iters=9.5), 'total_iters=9.5 must be a whole number'),
        (dict(total_iters=True), 'total_iters=True must be a whole number'),
        (dict(schedule='exp'), "schedule='exp'.*linear, cosine, step"),
        (dict(schedule=['linear']), r"schedule=\['linear'\].*linear, cosine, step"),
        (dict(start_ratio=1.5), 'start_ratio=1.5 must be a number from 0 to 1'),
        (dict(end_ratio=None), 'end_ratio=None must be a number from 0 to 1'),
        (dict(end_ratio=math.nan), 'end_ratio=nan must be a number from 0 to 1'),
        (dict(begin=-1), 'begin=-1 is negative: count iterations from 0'),
        (dict(end=9.5), 'end=9.5 is neither a fraction of training.* nor a whole number of it'),
        (dict(end='late'), "end='late' is neither"),
        (dict(end=True), 'end=True is neither'),
        (dict(begin=5, end=3), 'end=3 does not lie after begin=5: raise end or lower begin'),
        (dict(begin=18), r'end=0.8 \(iteration 16\) does not lie after begin=18 \(iteration 18\)'),
        (dict(num_steps=0), 'num_steps=0 must be a whole number of at least 1'),
        (dict(last_iter=-1), 'last_iter=-1 must be a whole number of at least 0'),
    ],
    ids=str,
)
def test_bad_arguments_are_named_and_the_model_stays(arguments, message):
    model = network(0.5)
    with pytest.raises(InputError, match=message):
        PRepBNScheduler(model, **{**dict(total_iters=20), **arguments})
    assert ratio_of(model) == 0.5


def test_a_model_without_prepbn_is_refused():
    with pytest.raises(InputError, match='model=Linear has no PRepBN .*convert_norms'):
        PRepBNScheduler(nn.Linear(C, C), 20)
    with pytest.raises(TypeError, match=r'model=\[\] is not a torch.nn.Module'):
        PRepBNScheduler([], 20)


def test_norms_that_disagree_need_a_start():
    model = network()
    model[1].set_ratio(0.5)
    with pytest.raises(
        InputError, match=r'such as 1 and 2\.0, start from different ratios, 0.5 to 1: set start'
    ):
        PRepBNScheduler(model, 20)
    PRepBNScheduler(model, 20, start_ratio=0.75)
    assert ratio_of(model) == 0.75


def test_forward_passes_do_not_move_the_ratio():
    model = network()
    PRepBNScheduler(model, 4, last_iter=1)
    for _ in range(3):
        model(torch.randn(2, 5, C)).sum().backward()
    assert ratio_of(model) == pytest.approx(1 - 1 / 3.2)
