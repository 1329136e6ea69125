"""What PRepBNHook warns of, and what it must not."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import LinearLR

from slab_det.layers import set_ratio
from slab_det.mm.hooks import PRepBNHook
from slab_det.mm.hooks.prepbn_hook import _warmup_end
from tests.mm.tiny_runner import TinyModel, line, ratios


@pytest.fixture
def warnings_of(monkeypatch):
    """Train and return the warnings of the hook."""

    def run(runner):
        messages = []
        monkeypatch.setattr(runner.logger, 'warning', messages.append)
        runner.train()
        return [message for message in messages if message.startswith('PRepBNHook')]

    return run


class TurnsNaN(TinyModel):
    def forward(self, inputs, index=None, mode='tensor'):
        out = super().forward(inputs, index, mode)
        if mode == 'loss' and len(self.seen['loss']) > 5:
            out['loss'] = out['loss'] * self.factor
        return out


@pytest.mark.parametrize('factor', [math.nan, math.inf])
def test_loss_that_is_not_finite_warns_once_and_says_what_to_change(
    make_runner, warnings_of, factor
):
    model = TurnsNaN()
    model.factor = factor
    (message,) = warnings_of(make_runner([PRepBNHook(end=1)], model))
    assert f'loss is {factor} at iteration 5 with the ratio at 0:' in message
    assert 'end=0.8' in message and 'from iteration 0 to 4' in message


class RunsAway(TinyModel):
    def forward(self, inputs, index=None, mode='tensor'):
        self.scale = 3.0 ** len(self.seen['loss'])
        out = super().forward(inputs, index, mode)
        return dict(loss=out['loss'] * 0)  # nothing but the variance goes wrong


def test_running_variance_that_grows_without_bound_warns_once(make_runner, warnings_of):
    (message,) = warnings_of(make_runner([PRepBNHook(check_interval=2)], RunsAway()))
    assert 'running variance of norm1' in message and 'end=0.8' in message
    assert warnings_of(make_runner([PRepBNHook(check_interval=0)], RunsAway())) == []


class Jumps(TinyModel):
    """Its activations grow by 1e4, and variances by 1e8, behind the second iteration."""

    def forward(self, inputs, index=None, mode='tensor'):
        self.scale = 1.0 if len(self.seen['loss']) < 2 else 1e4
        return dict(loss=super().forward(inputs, index, mode)['loss'] * 0)


def test_a_variance_that_runs_away_before_the_first_check_is_noticed(make_runner, warnings_of):
    (message,) = warnings_of(make_runner([PRepBNHook()], Jumps(), by_epoch=False, length=60))
    assert 'running variance of norm1' in message and 'by iteration 49' in message


class Loud(TinyModel):
    def forward(self, inputs, index=None, mode='tensor'):
        self.scale = 1e4
        return dict(loss=super().forward(inputs, index, mode)['loss'] * 0)


def test_a_variance_that_ran_away_over_a_resumption_is_noticed(make_runner, warnings_of):
    first = make_runner(
        [PRepBNHook()], by_epoch=False, length=40, checkpoint=dict(interval=10, by_epoch=False)
    )
    assert warnings_of(first) == []
    rest = make_runner(
        [PRepBNHook(check_interval=5)],
        Loud(),
        by_epoch=False,
        length=40,
        resume=True,
        load_from=f'{first.work_dir}/iter_10.pth',
    )
    (message,) = warnings_of(rest)
    assert 'running variance of norm1' in message


class Grows(TinyModel):
    """The running variance of one channel of its last norm becomes ``growth`` times that of the
    first iteration; nothing else goes wrong."""

    def __init__(self, growth):
        super().__init__()
        self.growth = growth
        self.norm1.repbn.bn.momentum = self.norm2.repbn.bn.momentum = 0.0

    def forward(self, inputs, index=None, mode='tensor'):
        if len(self.seen['loss']) == 5:
            self.norm2.repbn.bn.running_var[2] = self.growth
        super().forward(inputs, index, mode)
        return dict(loss=self.last.bias.sum() * 0)


@pytest.mark.parametrize('growth, found', [(900.0, 0), (1100.0, 1), (math.nan, 1)])
def test_one_channel_of_any_norm_whose_variance_grew_a_thousandfold_is_noticed(
    make_runner, warnings_of, growth, found
):
    messages = warnings_of(make_runner([PRepBNHook(check_interval=2)], Grows(growth)))
    assert len(messages) == found
    assert all(
        f'running variance of norm2 went from 1 to {growth:.3g} by' in message
        for message in messages
    )


class Frozen(TinyModel):
    """Keeps its first norm in evaluation mode, as ``norm_eval`` and ``frozen_stages`` do."""

    def train(self, mode=True):
        super().train(mode)
        self.norm1.eval()
        return self


def test_a_ratio_that_falls_to_frozen_statistics_of_a_new_norm_warns_once(make_runner, warnings_of):
    (message,) = warnings_of(make_runner([PRepBNHook()], Frozen()))
    assert 'the statistics of 1 PRepBN, such as norm1, are frozen' in message
    assert 'norm_eval=False and frozen_stages=-1' in message


@pytest.mark.parametrize('ratio, mean, var', [(0.0, 0.0, 1.0), (1.0, 0.1, 1.0), (1.0, 0.0, 2.0)])
def test_frozen_statistics_that_may_stay_do_not_warn(ratio, mean, var, make_runner, warnings_of):
    model = Frozen()
    set_ratio(model, ratio)
    model.norm1.repbn.bn.running_mean.fill_(mean)
    model.norm1.repbn.bn.running_var.fill_(var)
    assert warnings_of(make_runner([PRepBNHook()], model)) == []


class MeanTeacher(BaseModel):
    """A student, and a teacher in evaluation mode that a MeanTeacherHook averages."""

    def __init__(self, frozen_student=False):
        super().__init__()
        self.student = Frozen() if frozen_student else TinyModel()
        self.teacher = TinyModel()

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, inputs, index=None, mode='tensor'):
        return self.student(inputs, index, mode)


@pytest.mark.parametrize('skip_buffer', [True, False])
def test_a_teacher_without_statistics_is_not_said_to_be_norm_eval(
    make_runner, warnings_of, skip_buffer
):
    from mmdet.engine.hooks import MeanTeacherHook

    teacher = MeanTeacherHook(momentum=0.1, skip_buffer=skip_buffer)
    messages = warnings_of(make_runner([teacher, PRepBNHook()], MeanTeacher()))
    assert len(messages) == skip_buffer
    for message in messages:
        assert 'the statistics of 2 PRepBN, such as teacher.norm1, stay at the mean 0' in message
        assert 'skip_buffer=False' in message and 'norm_eval' not in message


def test_a_teacher_of_a_frozen_student_is_norm_eval(make_runner, warnings_of):
    from mmdet.engine.hooks import MeanTeacherHook

    teacher = MeanTeacherHook(momentum=0.1)
    copy, frozen = warnings_of(make_runner([teacher, PRepBNHook()], MeanTeacher(True)))
    assert 'of 1 PRepBN, such as teacher.norm2, stay' in copy
    assert 'of 2 PRepBN, such as student.norm1, are frozen' in frozen and 'norm_eval' in frozen


def test_a_resumption_under_another_length_of_training_warns_of_the_jump(make_runner, warnings_of):
    first = make_runner([PRepBNHook()], checkpoint=dict(interval=1))
    assert warnings_of(first) == []
    longer = make_runner(
        [PRepBNHook()], length=8, resume=True, load_from=f'{first.work_dir}/epoch_4.pth'
    )
    (message,) = warnings_of(longer)
    assert f'jumps from 0 to {1 - 16 / (0.8 * 32):.3g}:' in message and 'by_epoch=False' in message
    again = make_runner([PRepBNHook()], resume=True, load_from=f'{first.work_dir}/epoch_2.pth')
    assert warnings_of(again) == []
    earlier = make_runner(
        [PRepBNHook(end=0.75)], resume=True, load_from=f'{first.work_dir}/epoch_2.pth'
    )
    (message,) = warnings_of(earlier)  # of a small jump, too
    assert f'jumps from {1 - 7 / 12.8:.3g} to {1 - 8 / 12:.3g}:' in message


def test_a_start_ratio_that_a_resumption_does_not_use_is_named(make_runner, warnings_of):
    first = make_runner([PRepBNHook()], checkpoint=dict(interval=1))
    first.train()
    rest = make_runner(
        [PRepBNHook(start_ratio=0.3)], resume=True, load_from=f'{first.work_dir}/epoch_2.pth'
    )
    (message,) = warnings_of(rest)
    assert 'start_ratio=0.3 is not used' in message and 'started from 1' in message
    assert ratios(rest) == pytest.approx(line(0.8 * 16, 16)[8:], abs=1e-6)


def test_quiet_training_does_not_warn(make_runner, warnings_of):
    scheduler = dict(type='LinearLR', start_factor=0.1, begin=0, end=4, by_epoch=False)
    runner = make_runner([PRepBNHook(check_interval=1)], param_scheduler=[scheduler])
    assert warnings_of(runner) == []


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(type='LinearLR', start_factor=0.1, begin=0, end=9, by_epoch=False),
        dict(
            type='LinearLR', start_factor=0.1, begin=0, end=8, by_epoch=False
        ),  # must arrive after it
        dict(type='LinearLR', start_factor=0.1, begin=0, end=3, by_epoch=True),
        dict(
            type='LinearLR',
            start_factor=0.1,
            begin=0,
            end=3,
            by_epoch=True,
            convert_to_iter_based=True,
        ),
        dict(type='ConstantLR', factor=0.1, begin=0, end=9, by_epoch=False),
        dict(type='mmdet.QuadraticWarmupLR', begin=0, end=9, by_epoch=False),
    ],
)
def test_schedule_shorter_than_warmup_warns(make_runner, warnings_of, scheduler):
    (message,) = warnings_of(make_runner([PRepBNHook(end=2)], param_scheduler=[scheduler]))
    assert 'arrives at iteration 8, before the learning rate has warmed up at' in message


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(
            type='LinearLR', start_factor=1.0, end_factor=0.1, begin=0, end=9, by_epoch=False
        ),  # falls
        dict(
            type='LinearMomentum', start_factor=0.1, begin=0, end=9, by_epoch=False
        ),  # no learning rate
        dict(type='ConstantLR', factor=0.1, begin=0, end=16, by_epoch=False),  # never rises
        dict(type='MultiStepLR', milestones=[9], by_epoch=False),
    ],
    ids=lambda scheduler: scheduler['type'],
)
def test_what_is_no_warmup_does_not_warn(make_runner, warnings_of, scheduler):
    assert warnings_of(make_runner([PRepBNHook(end=2)], param_scheduler=[scheduler])) == []


def test_warmup_of_any_optimizer_counts():
    """With several optimizers the schedulers come in a dict."""
    optimizers = [torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0) for _ in range(2)]
    schedulers = {
        name: [LinearLR(optimizer, 0.1, end=end, by_epoch=False)]
        for name, optimizer, end in zip('ab', optimizers, (7, 5))
    }
    assert _warmup_end(SimpleNamespace(param_schedulers=schedulers, max_iters=16)) == 7


@pytest.mark.parametrize(
    'arguments, where, length',
    [
        (dict(end=8), '8 lies at iteration 32', 32),
        # Iterations are 0 to 15: the ratio arrives at one that training does not have.
        (dict(end=1.0), '1.0 lies at iteration 16', 16),
        (dict(end=4), '4 lies at iteration 16', 16),
    ],
)
def test_schedule_longer_than_training_warns(make_runner, warnings_of, arguments, where, length):
    runner = make_runner([PRepBNHook(**arguments)])
    (message,) = warnings_of(runner)
    assert f'end={where} but training ends at 16' in message
    assert f'{1 - 15 / length:.3g} and not 0' in message
    assert ratios(runner)[-1] == pytest.approx(1 - 15 / length)  # it is as the warning says


@pytest.mark.parametrize('ratio, end', [(1.0, 15), (0.0, 32)], ids=['arrives', 'is there'])
def test_schedule_that_arrives_in_training_does_not_warn(make_runner, warnings_of, ratio, end):
    model = TinyModel()
    set_ratio(model, ratio)
    runner = make_runner([PRepBNHook(end=end, by_epoch=False)], model)
    assert warnings_of(runner) == []
    assert ratios(runner)[-1] == 0
