import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.checkpoint import checkpoint

from slab_det.layers import set_ratio
from slab_det.mm.hooks import PRepBNHook
from tests.mm.tiny_runner import Count, Numbers, PlainModel, TinyModel, line, ratios

EPOCH = 4  # iterations of an epoch: 8 samples in batches of 2


def scalars(runner, key='prepbn_ratio'):
    path = Path(runner.work_dir) / runner.timestamp / 'vis_data' / 'scalars.json'
    records = [json.loads(row) for row in path.read_text().splitlines()]
    return [record[key] for record in records if key in record]


def test_registered_for_mmengine_and_mmdet():
    from mmdet.registry import HOOKS as MMDET_HOOKS

    assert HOOKS.get('PRepBNHook') is MMDET_HOOKS.get('PRepBNHook') is PRepBNHook


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (dict(), line(0.8 * 16, 16)),
        (dict(end=1.0), line(16, 16)),
        (dict(begin=0.25, end=0.5), line(8, 16, begin=4)),
        (dict(begin=1, end=3), line(12, 16, begin=4)),
        (dict(begin=3, end=13, by_epoch=False), line(13, 16, begin=3)),
        (dict(begin=2, end=0.5, by_epoch=False), line(8, 16, begin=2)),
        (dict(end=2, start_ratio=0.75, end_ratio=0.25), line(8, 16, start=0.75, stop=0.25)),
        (
            dict(end=2, schedule='cosine'),
            [0.5 * (1 + math.cos(math.pi * min(t, 8) / 8)) for t in range(16)],
        ),
        (dict(end=2, schedule='step', num_steps=2), [1.0] * 4 + [0.5] * 4 + [0.0] * 8),
    ],
)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_ratio_of_every_iteration(make_runner, arguments, expected, by_epoch):
    runner = make_runner([PRepBNHook(**arguments)], by_epoch=by_epoch, length=4 if by_epoch else 16)
    runner.train()
    assert ratios(runner) == pytest.approx(expected, abs=1e-6)
    assert scalars(runner) == pytest.approx(expected, abs=1e-6)


def test_starts_from_the_ratio_in_the_model(make_runner):
    model = TinyModel()
    set_ratio(model, 0.5)
    runner = make_runner([PRepBNHook(end=2)], model)
    runner.train()
    assert ratios(runner) == pytest.approx(line(8, 16, start=0.5), abs=1e-6)


def test_starts_from_the_ratio_in_a_loaded_checkpoint(make_runner):
    first = make_runner([PRepBNHook(end=4)], length=2, checkpoint=dict(interval=1))
    first.train()
    reached = ratios(first)[-1]
    assert reached == pytest.approx(1 - 7 / 16)
    second = make_runner([PRepBNHook(end=4)], load_from=f'{first.work_dir}/epoch_2.pth')
    second.train()
    assert ratios(second) == pytest.approx(line(16, 16, start=reached), abs=1e-6)


def test_a_finished_model_stays_finished(make_runner):
    model = TinyModel()
    set_ratio(model, 0.0)
    runner = make_runner([PRepBNHook()], model, length=1)
    runner.train()
    assert ratios(runner) == [0.0] * EPOCH


def test_gradient_accumulation_does_not_slow_it(make_runner):
    runner = make_runner([PRepBNHook(end=1.0)], optim=dict(accumulative_counts=4))
    runner.train()
    assert ratios(runner) == pytest.approx(line(16, 16), abs=1e-6)


@pytest.mark.parametrize('by_epoch, length', [(True, 4), (False, 16)])
def test_accumulation_with_validation_in_between(make_runner, by_epoch, length):
    """Validation falls between two passes of one step; every pass counts, no evaluation does."""
    runner = make_runner(
        [PRepBNHook(end=1.0)],
        by_epoch=by_epoch,
        length=length,
        validate=True,
        val_interval=1 if by_epoch else EPOCH,
        optim=dict(accumulative_counts=3),
    )
    runner.train()
    assert ratios(runner) == pytest.approx(line(16, 16), abs=1e-6)
    assert scalars(runner) == pytest.approx(line(16, 16), abs=1e-6)
    assert [a for a, _ in runner.model.seen['predict']] == pytest.approx(
        [1 - t / 16 for t in (3, 3, 7, 7, 11, 11, 15, 15)]
    )
    for norm in (runner.model.norm1, runner.model.norm2):
        assert norm.repbn.bn.num_batches_tracked == 16


class Checkpointed(TinyModel):
    """Runs its forward pass twice, as activation checkpointing does."""

    def forward(self, inputs, index=None, mode='tensor'):
        if mode != 'loss':
            return super().forward(inputs, index, mode)
        x = torch.stack(inputs).requires_grad_()
        run = super().forward
        return dict(
            loss=checkpoint(lambda x: run(list(x), None, 'loss')['loss'], x, use_reentrant=False)
        )


def test_activation_checkpointing_does_not_hasten_it(make_runner):
    runner = make_runner([PRepBNHook(end=1.0)], Checkpointed())
    runner.train()
    assert ratios(runner)[::2] == ratios(runner)[1::2]
    assert ratios(runner)[::2] == pytest.approx(line(16, 16), abs=1e-6)


@pytest.mark.parametrize('by_epoch, length', [(True, 4), (False, 16)])
def test_validation_measures_the_network_as_it_is(make_runner, by_epoch, length):
    runner = make_runner(
        [PRepBNHook(end=1.0)],
        by_epoch=by_epoch,
        length=length,
        validate=True,
        val_interval=1 if by_epoch else EPOCH,
    )
    runner.train()
    assert ratios(runner) == pytest.approx(line(16, 16), abs=1e-6)
    seen = [a for a, _ in runner.model.seen['predict']]
    assert seen == pytest.approx([1 - t / 16 for t in (3, 3, 7, 7, 11, 11, 15, 15)])


@pytest.mark.parametrize(
    'by_epoch, length, config, name',
    [
        (True, 4, dict(interval=1), 'epoch_2.pth'),
        (True, 4, dict(interval=1, by_epoch=False), 'iter_8.pth'),
        (False, 16, dict(interval=5, by_epoch=False), 'iter_5.pth'),
    ],
)
def test_resumed_run_goes_on_along_the_same_line(make_runner, by_epoch, length, config, name):
    model = TinyModel()
    set_ratio(model, 0.75)
    whole = make_runner(
        [PRepBNHook(end=1.0)], model, by_epoch=by_epoch, length=length, checkpoint=config
    )
    whole.train()
    # The model of the resumed run is new: its ratio of 1 must not become the start.
    rest = make_runner(
        [PRepBNHook(end=1.0)],
        by_epoch=by_epoch,
        length=length,
        resume=True,
        load_from=f'{whole.work_dir}/{name}',
    )
    rest.train()
    assert ratios(whole) == pytest.approx(line(16, 16, start=0.75), abs=1e-6)
    done = 5 if name == 'iter_5.pth' else 8
    assert ratios(rest)[: 16 - done] == ratios(whole)[done:]


def test_resuming_twice_keeps_the_start(make_runner):
    arguments = dict(by_epoch=False, length=16, checkpoint=dict(interval=5, by_epoch=False))
    first = make_runner([PRepBNHook(end=1.0)], **arguments)
    first.train()
    second = make_runner(
        [PRepBNHook(end=1.0)], resume=True, load_from=f'{first.work_dir}/iter_5.pth', **arguments
    )
    second.train()
    third = make_runner(
        [PRepBNHook(end=1.0)], resume=True, load_from=f'{second.work_dir}/iter_10.pth', **arguments
    )
    third.train()
    assert ratios(third) == ratios(first)[10:]


def test_resuming_without_a_known_start_asks_for_it(make_runner):
    arguments = dict(by_epoch=False, length=16)
    first = make_runner([], checkpoint=dict(interval=5, by_epoch=False), **arguments)
    first.train()
    resumed = dict(resume=True, load_from=f'{first.work_dir}/iter_5.pth', **arguments)
    with pytest.raises(ValueError, match='start_ratio=None.*set start_ratio'):
        make_runner([PRepBNHook()], **resumed).train()
    runner = make_runner([PRepBNHook(start_ratio=1.0, end=1.0)], **resumed)
    runner.train()
    assert ratios(runner) == pytest.approx(line(16, 16)[5:], abs=1e-6)


class Recording(Hook):
    """Copies the weights and buffers after every iteration, and those that validation sees."""

    priority = 'VERY_HIGH'  # before EMAHook

    def __init__(self):
        self.trained, self.validated = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.trained.append({k: v.clone() for k, v in runner.model.state_dict().items()})

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            self.validated.append({k: v.clone() for k, v in runner.model.state_dict().items()})


def averages(states, momentum, averaged):
    """``a_1 = x_1`` and ``a_t = (1 - momentum) a_{t-1} + momentum x_t`` of the entries whose names
    satisfy ``averaged``, and the current values of the others, after every iteration."""
    current, found = None, []
    for state in states:
        state = {k: v.double() for k, v in state.items() if v.is_floating_point()}
        current = {
            k: (1 - momentum) * current[k] + momentum * v if current and averaged(k) else v
            for k, v in state.items()
        }
        found.append(current)
    return found


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iters'])
@pytest.mark.parametrize('update_buffers', [True, False])
def test_averaged_model_takes_the_current_ratio(make_runner, update_buffers, by_epoch):
    ema = dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)
    record = Recording()
    loop = (
        dict(length=4, checkpoint=dict(interval=1))
        if by_epoch
        else dict(length=16, val_interval=4, checkpoint=dict(interval=4, by_epoch=False))
    )
    runner = make_runner(
        [ema, PRepBNHook(end=1.0), record], validate=True, by_epoch=by_epoch, **loop
    )
    parameters = {name for name, _ in runner.model.named_parameters()}
    runner.train()
    current = [1 - t / 16 for t in (3, 3, 7, 7, 11, 11, 15, 15)]
    assert [a for a, _ in runner.model.seen['predict']] == pytest.approx(current)
    assert ratios(runner) == pytest.approx(line(16, 16), abs=1e-6)

    expected = averages(
        record.trained,
        0.1,
        lambda name: not name.endswith('.ratio') and (name in parameters or update_buffers),
    )
    assert len(expected) == 16 and len(record.validated) == 4
    for end, validated in zip((4, 8, 12, 16), record.validated):
        name = f'epoch_{end // 4}.pth' if by_epoch else f'iter_{end}.pth'
        saved = torch.load(f'{runner.work_dir}/{name}', weights_only=True)
        # EMAHook saves the averages as the weights, and the weights as the averages.
        assert float(saved['state_dict']['norm1.ratio']) == pytest.approx(1 - (end - 1) / 16)
        assert float(saved['ema_state_dict']['module.norm1.ratio']) == pytest.approx(
            1 - (end - 1) / 16
        )
        for key, value in expected[end - 1].items():
            for found in (saved['state_dict'], validated):
                torch.testing.assert_close(
                    found[key].double(), value, rtol=1e-5, atol=1e-6, msg=key
                )
            assert torch.equal(
                saved['ema_state_dict'][f'module.{key}'], record.trained[end - 1][key]
            ), key
    # Averages are far enough from the current values for the comparison to tell them apart.
    for name in ('last.weight', *['norm1.repbn.bn.running_mean'] * update_buffers):
        assert (expected[-1][name] - record.trained[-1][name]).abs().max() > 1e-3


@pytest.mark.parametrize('update_buffers', [True, False])
def test_averaged_model_resumes_at_the_right_ratio(make_runner, update_buffers):
    ema = dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)
    arguments = dict(validate=True, checkpoint=dict(interval=1))
    whole = make_runner([ema, PRepBNHook(end=1.0)], **arguments)
    whole.train()
    rest = make_runner(
        [ema, PRepBNHook(end=1.0)],
        resume=True,
        load_from=f'{whole.work_dir}/epoch_2.pth',
        **arguments,
    )
    rest.train()
    assert ratios(rest) == ratios(whole)[8:]
    assert rest.model.seen['predict'] == whole.model.seen['predict'][4:]


def test_averaged_model_validates_in_the_right_mode(make_runner):
    """At ratio 0 the swapped-in model must have left the LayerNorm branch."""
    ema = dict(type='EMAHook', momentum=0.1, update_buffers=True)
    runner = make_runner([ema, PRepBNHook(end=1)], validate=True, length=2)
    runner.train()
    assert runner.model.seen['predict'][-1] == (0.0, 0.0)
    assert runner.model.phase == ('repbn', 'repbn')


def test_test_follows_the_loaded_ratio(make_runner):
    runner = make_runner([PRepBNHook()], validate=True)
    assert runner.val_loop  # built before the buffers change
    runner.model.norm1.ratio.fill_(0.0)
    runner.model.norm2.ratio.fill_(0.0)
    runner.val()
    assert runner.model.phase == ('repbn', 'repbn')


class Swap(Hook):
    """Changes the ratio in place around an evaluation, as EMAHook does with all buffers."""

    def _fill(self, runner, value):
        for norm in (runner.model.norm1, runner.model.norm2):
            norm.ratio.fill_(value)

    def before_val_epoch(self, runner):
        self._fill(runner, 0.0)

    def after_val_epoch(self, runner, metrics=None):
        self._fill(runner, 1.0)

    before_test_epoch, after_test_epoch = before_val_epoch, after_val_epoch


@pytest.mark.parametrize('evaluate', ['val', 'test'])
def test_evaluation_follows_a_swapped_model_there_and_back(make_runner, evaluate):
    """A norm that misses one of the two swaps computes another branch than its ratio says."""
    loader = dict(
        dataset=Numbers(2),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=pseudo_collate,
        batch_size=1,
        num_workers=0,
    )
    runner = make_runner(
        [Swap(), PRepBNHook()],
        validate=True,
        test_dataloader=loader,
        test_cfg=dict(),
        test_evaluator=Evaluator(Count()),
    )
    getattr(runner, evaluate)()
    assert runner.model.phase == ('repbn', 'repbn')
    runner.model([Numbers()[0]['inputs']], mode='predict')
    assert runner.model.phase == ('layer_norm', 'layer_norm')


def test_what_is_loaded_after_training_keeps_its_own_ratio(make_runner):
    runner = make_runner([PRepBNHook(end=1)], validate=True, length=2)
    runner.train()
    assert runner.model.seen['predict'][-1] == (0.0, 0.0)
    runner.model.load_state_dict(TinyModel().state_dict())
    runner.val()
    assert runner.model.seen['predict'][-1] == (1.0, 1.0)
    assert runner.model.phase == ('layer_norm', 'layer_norm')


def test_model_without_prepbn_fails_unless_allowed(make_runner):
    with pytest.raises(ValueError, match='no PRepBN in PlainModel.*allow_missing=True'):
        make_runner([PRepBNHook()], PlainModel()).train()
    make_runner([PRepBNHook(allow_missing=True)], PlainModel(), length=1).train()


def test_a_second_hook_is_refused(make_runner):
    # A config that inherits the hook and adds one: the last of them would decide the ratio.
    runner = make_runner([PRepBNHook(end=0.5), PRepBNHook(end=1.0)], TinyModel())
    with pytest.raises(ValueError, match='custom_hooks has 2 PRepBNHook.*keep one'):
        runner.train()
    assert ratios(runner) == []


def test_norms_that_disagree_need_a_start(make_runner):
    model = TinyModel()
    model.norm1.set_ratio(0.5)
    with pytest.raises(ValueError, match='different ratios, 0.5 to 1: set start_ratio'):
        make_runner([PRepBNHook()], model).train()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(schedule='exp'), "schedule='exp'.*linear, cosine, step"),
        (dict(start_ratio=1.5), 'start_ratio=1.5.*from 0 to 1'),
        (dict(end_ratio=-0.1), 'end_ratio=-0.1.*from 0 to 1'),
        (dict(end_ratio=None), 'end_ratio=None.*from 0 to 1'),
        (dict(start_ratio=math.nan), 'start_ratio=nan'),
        (dict(start_ratio=True), 'start_ratio=True.*from 0 to 1'),
        (dict(end_ratio=False), 'end_ratio=False.*from 0 to 1'),
        (dict(by_epoch='False'), "by_epoch='False' must be True or False"),
        (dict(allow_missing=None), 'allow_missing=None must be True or False'),
        (dict(begin=5, end=3), 'end=3 does not lie after begin=5.*raise end or lower begin'),
        (dict(begin=0.5, end=0.5), 'end=0.5 does not lie after begin=0.5'),
        (dict(begin=-1), 'begin=-1 is negative'),
        (dict(end=9.5), 'end=9.5.*fraction.*whole number'),
        (dict(end='late'), "end='late'"),
        (dict(end=True), 'end=True'),
        (dict(num_steps=0), 'num_steps=0'),
        (dict(check_interval=-1), 'check_interval=-1'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PRepBNHook(**arguments)


def test_end_before_begin_in_different_words_fails_when_training_begins(make_runner):
    with pytest.raises(ValueError, match=r'end=0.5 \(iteration 8\).*begin=3 \(iteration 12\)'):
        make_runner([PRepBNHook(begin=3, end=0.5)]).train()


@pytest.mark.parametrize('arguments', [dict(), dict(end=2), dict(end=2, by_epoch=False)], ids=str)
def test_a_training_set_without_images_is_named(make_runner, arguments):
    with pytest.raises(
        ValueError, match='training set holds no image.*train_dataloader.*filter_cfg'
    ):
        make_runner([PRepBNHook(**arguments)], data=Numbers(0)).train()


def test_epochs_without_a_batch_are_named(make_runner):
    runner = make_runner(
        [PRepBNHook(end=2)], by_epoch=False, data=Numbers(1), loader=dict(drop_last=True)
    )
    with pytest.raises(
        ValueError, match='end=2 counts epochs, but an epoch has no batch: lower batch_size'
    ):
        runner.train()
    runner = make_runner(
        [PRepBNHook(end=1.0)], by_epoch=False, data=Numbers(1), loader=dict(drop_last=True)
    )
    runner.train()  # an endless sampler fills its batches
    assert ratios(runner) == pytest.approx(line(4, 4))


def test_fraction_needs_a_training_length(make_runner):
    runner = make_runner([PRepBNHook()])
    runner.train_loop._max_iters = None
    runner.call_hook('before_run')
    with pytest.raises(ValueError, match='end=0.8 is a fraction.*max_iters=None.*train_cfg'):
        runner.call_hook('before_train')


class Wrapper(torch.nn.Module):
    """Looks like DistributedDataParallel to mmengine."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def train_step(self, *args, **kwargs):
        return self.module.train_step(*args, **kwargs)


def test_wrapped_model_is_found(make_runner, monkeypatch):
    from mmengine.model import wrappers
    from mmengine.registry import MODEL_WRAPPERS

    monkeypatch.setitem(MODEL_WRAPPERS._module_dict, 'Wrapper', Wrapper)
    assert wrappers.is_model_wrapper(Wrapper(TinyModel()))
    runner = make_runner([PRepBNHook(end=1.0)], Wrapper(TinyModel()))
    runner.train()
    assert [a for a, _ in runner.model.module.seen['loss']] == pytest.approx(line(16, 16), abs=1e-6)


def test_ratio_reaches_every_visualizer_backend(make_runner):
    class Remember:
        def __init__(self):
            self.values = []

        def add_config(self, *args, **kwargs):
            pass

        def add_scalars(self, tags, step=0, file_path=None):
            self.values.append((step, tags['prepbn_ratio']))

        def close(self):
            pass

    runner = make_runner([PRepBNHook(end=1.0)])
    backends = dict(a=Remember(), b=Remember())
    runner.visualizer._vis_backends = backends
    runner.train()
    for backend in backends.values():
        assert [step for step, _ in backend.values] == list(range(1, 17))
        assert [value for _, value in backend.values] == pytest.approx(line(16, 16))


def test_curves_in_tensorboard(make_runner):
    pytest.importorskip('tensorboard', reason='tensorboard writes and reads the event file')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runner = make_runner(
        [PRepBNHook(end=1.0)],
        visualizer=dict(
            type='Visualizer', name='curves', vis_backends=[dict(type='TensorboardVisBackend')]
        ),
    )
    runner.train()
    runner.visualizer.close()
    events = EventAccumulator(str(Path(runner.work_dir) / runner.timestamp / 'vis_data')).Reload()
    assert {'prepbn_ratio', 'lr', 'loss'} <= set(events.Tags()['scalars'])
    points = events.Scalars('prepbn_ratio')
    assert [point.step for point in points] == list(range(1, 17))
    assert [point.value for point in points] == pytest.approx(line(16, 16), abs=1e-6)
    assert all(math.isfinite(point.value) for point in events.Scalars('loss'))
