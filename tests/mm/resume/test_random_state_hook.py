"""A resumed run must repeat the uninterrupted one, number by number."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, IterableDataset

from slab_det.mm.hooks import PRepBNHook
from slab_det.mm.resume import RandomStateHook
from slab_det.mm.resume.random_state_hook import _hold_back
from tests.mm.tiny_runner import Numbers, TinyModel
from tests.resumption import assert_same_checkpoint

WARM_UP = [dict(type='LinearLR', start_factor=0.1, begin=0, end=20, by_epoch=False)]


class Noting(RandomStateHook):
    """Keeps the loss of every iteration, by its number, and what Python's and numpy's generators
    give then."""

    def __init__(self):
        super().__init__()
        self.losses = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self.losses[runner.iter] = (
            batch_idx,
            outputs['loss'].item(),
            data_batch['index'],
            random.random(),
            np.random.rand(),
        )


@pytest.fixture
def train(make_runner):

    def run(hook=None, hooks=(), init=None, **kwargs):
        hook = hook or Noting()
        kwargs.setdefault('data', Numbers(augment=True))
        kwargs.setdefault('param_scheduler', WARM_UP)
        if init is not None:
            torch.manual_seed(init)
        runner = make_runner([hook, PRepBNHook(end=1.0), *hooks], TinyModel(dropout=0.3), **kwargs)
        runner.train()
        return runner, hook

    return run


def assert_same_end(whole, rest, done):
    """``(runner, hook)`` of both runs: losses and batches agree from ``done`` on, and in the end
    weights, optimizer, schedulers, random numbers and all else that is in their last checkpoints.
    """
    (whole_runner, whole_hook), (rest_runner, rest_hook) = whole, rest
    expected = {t: note for t, note in whole_hook.losses.items() if t >= done}
    assert expected and rest_hook.losses == expected
    for key, value in whole_runner.model.state_dict().items():
        assert torch.equal(value, rest_runner.model.state_dict()[key]), key
    last = [
        (Path(runner.work_dir) / 'last_checkpoint').read_text()
        for runner in (rest_runner, whole_runner)
    ]
    assert_same_checkpoint(*last)
    schedulers = torch.load(last[0], weights_only=True)['param_schedulers']
    assert [state['last_step'] for state in schedulers] == [whole_runner.iter]


EPOCHS = dict(by_epoch=True, length=3)
ITERS = dict(by_epoch=False, length=12)


@pytest.mark.parametrize(
    'workers',
    [dict(num_workers=0), dict(num_workers=2), dict(num_workers=2, persistent_workers=True)],
    ids=['0', '2', 'persistent'],
)
@pytest.mark.parametrize(
    'loop, save, name, done',
    [
        (EPOCHS, dict(interval=1), 'epoch_1', 4),
        (EPOCHS, dict(interval=5, by_epoch=False), 'iter_5', 5),
        (EPOCHS, dict(interval=4, by_epoch=False), 'iter_8', 8),
        (ITERS, dict(interval=5, by_epoch=False), 'iter_5', 5),
        (
            dict(ITERS, sampler='DefaultSampler', length=6),
            dict(interval=5, by_epoch=False),
            'iter_5',
            5,
        ),
    ],
    ids=['epoch', 'within-epoch', 'epoch-end-by-iter', 'endless', 'iter-finite'],
)
def test_resumed_run_equals_the_uninterrupted_one(train, loop, save, name, done, workers):
    arguments = dict(
        loop,
        checkpoint=save,
        loader=workers,
        validate=True,
        val_interval=1 if loop is EPOCHS else 3,
    )
    whole = train(**arguments)
    rest = train(resume=True, load_from=f'{whole[0].work_dir}/{name}.pth', **arguments)
    assert_same_end(whole, rest, done)


@pytest.mark.parametrize('loop', [EPOCHS, ITERS], ids=['epochs', 'iters'])
def test_every_checkpoint_of_a_run_resumes_exactly(train, loop):
    arguments = dict(loop, checkpoint=dict(interval=1, by_epoch=False))
    whole = train(**arguments)
    for done in range(1, 12):
        rest = train(resume=True, load_from=f'{whole[0].work_dir}/iter_{done}.pth', **arguments)
        assert_same_end(whole, rest, done)


@pytest.mark.parametrize('loop', [EPOCHS, ITERS], ids=['epochs', 'iters'])
def test_resuming_a_resumed_run(train, loop):
    arguments = dict(loop, checkpoint=dict(interval=3, by_epoch=False))
    whole = train(**arguments)
    second = train(resume=True, load_from=f'{whole[0].work_dir}/iter_3.pth', **arguments)
    third = train(resume=True, load_from=f'{second[0].work_dir}/iter_6.pth', **arguments)
    assert_same_end(whole, third, 6)


@pytest.mark.parametrize('loop', [EPOCHS, ITERS], ids=['epochs', 'iters'])
@pytest.mark.parametrize('done', [5, 6, 7])
def test_accumulated_gradients_are_not_lost(train, loop, done):
    arguments = dict(
        loop, checkpoint=dict(interval=1, by_epoch=False), optim=dict(accumulative_counts=3)
    )
    whole = train(**arguments)
    path = f'{whole[0].work_dir}/iter_{done}.pth'
    saved = torch.load(path, weights_only=True)['random_states']
    assert bool(saved['gradients']) is (done % 3 != 0)
    assert_same_end(whole, train(resume=True, load_from=path, **arguments), done)


@pytest.mark.parametrize('loop', [EPOCHS, ITERS], ids=['epochs', 'iters'])
def test_without_a_seed_the_resumed_run_finds_it(train, loop):
    arguments = dict(
        loop, checkpoint=dict(interval=5, by_epoch=False), seed=None, loader=dict(num_workers=1)
    )
    whole = train(**arguments)
    rest = train(resume=True, load_from=f'{whole[0].work_dir}/iter_5.pth', **arguments)
    assert_same_end(whole, rest, 5)


def test_a_loader_object_is_resumed_too(train, make_runner):
    def loader():
        return DataLoader(
            Numbers(augment=True),
            batch_size=2,
            shuffle=True,
            num_workers=1,
            collate_fn=pseudo_collate,
        )

    def run(**kwargs):
        hook = Noting()
        runner = make_runner(
            [hook],
            TinyModel(dropout=0.3),
            checkpoint=dict(interval=1, by_epoch=False),
            param_scheduler=WARM_UP,
            **kwargs,
        )
        runner._train_dataloader = loader()
        runner._train_loop = dict(by_epoch=True, max_epochs=3)
        runner.train()
        return runner, hook

    whole = run()
    rest = run(resume=True, load_from=f'{whole[0].work_dir}/iter_6.pth')
    assert_same_end(whole, rest, 6)


class DrawsInValidation(Hook):
    def before_val_epoch(self, runner):
        torch.rand(10)


def test_validation_does_not_move_the_training(train):
    arguments = dict(hooks=[DrawsInValidation()], init=0)
    quiet, validated = train(**arguments), train(validate=True, **arguments)
    assert quiet[1].losses == validated[1].losses


def test_best_checkpoint_saved_during_validation_resumes(train):
    arguments = dict(
        EPOCHS, validate=True, checkpoint=dict(interval=1, save_best='samples', rule='greater')
    )
    whole = train(hooks=[DrawsInValidation()], **arguments)
    rest = train(
        hooks=[DrawsInValidation()],
        resume=True,
        load_from=f'{whole[0].work_dir}/epoch_1.pth',
        **arguments,
    )
    assert_same_end(whole, rest, 4)
    # mmengine saves the best without the optimizer; data and random numbers are in it, as of
    # training and not as the validation during which it was saved moved them.
    best = train(
        hooks=[DrawsInValidation()],
        resume=True,
        load_from=f'{whole[0].work_dir}/best_samples_epoch_1.pth',
        **arguments,
    )
    assert [note[2:] for note in best[1].losses.values()] == [
        note[2:] for t, note in whole[1].losses.items() if t >= 4
    ]
    assert best[1].losses[4] == whole[1].losses[4]  # dropout included, before the first update


def test_logged_at_the_same_iterations(train):
    def logged(runner):
        path = Path(runner.work_dir) / runner.timestamp / 'vis_data' / 'scalars.json'
        rows = [json.loads(row) for row in path.read_text().splitlines()]
        return [(row['step'], row['epoch'], row['loss'], row['prepbn_ratio']) for row in rows]

    arguments = dict(EPOCHS, checkpoint=dict(interval=5, by_epoch=False), hooks=[])
    whole = train(**arguments)[0]
    rest = train(resume=True, load_from=f'{whole.work_dir}/iter_5.pth', **arguments)[0]
    assert logged(rest) == logged(whole)[5:]


@pytest.mark.parametrize('loop', [EPOCHS, ITERS], ids=['epochs', 'iters'])
def test_trained_batches_are_not_read_again(train, loop):
    read = []

    class Counting(Numbers):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    arguments = dict(loop, checkpoint=dict(interval=3, by_epoch=False))
    whole = train(**arguments)
    train(resume=True, load_from=f'{whole[0].work_dir}/iter_6.pth', data=Counting(), **arguments)
    assert len(read) == (12 - 6) * 2


@pytest.mark.parametrize(
    'skip',
    [
        lambda batches: None,
        lambda batches: [next(batches) for _ in range(5)],
        lambda batches: batches.skip_iter(5),
    ],
    ids=['mmengine 0.10.0', 'mmengine 0.10.7', 'onedl-mmengine'],
)
def test_every_way_in_which_a_loop_skips_leaves_the_data_alone(skip):
    class Loop:
        dataloader_iterator = None

        def __init__(self):
            self.trained = []

        def run_iter(self, batch):
            self.trained.append(batch)

    loop = Loop()
    _hold_back(loop, iter('abc'))
    skip(loop.dataloader_iterator)
    for _ in range(3):
        loop.run_iter(next(loop.dataloader_iterator))
    assert loop.trained == ['a', 'b', 'c'] and 'run_iter' not in vars(loop)


def test_load_from_takes_the_weights_only(train):
    first = train(checkpoint=dict(interval=1), **EPOCHS)
    second = train(load_from=f'{first[0].work_dir}/epoch_1.pth', **EPOCHS)
    assert [note[2] for note in second[1].losses.values()] == [
        note[2] for note in first[1].losses.values()
    ]
    assert sorted(second[1].losses) == list(range(12))


def warnings_of(make_runner, monkeypatch, **kwargs):
    hook, messages = Noting(), []
    runner = make_runner([hook], TinyModel(), **kwargs)
    monkeypatch.setattr(runner.logger, 'warning', messages.append)
    runner.train()
    return hook, [message for message in messages if message.startswith('RandomStateHook')]


@pytest.mark.parametrize('loop, batches', [(EPOCHS, 4), (ITERS, 4)], ids=['epochs', 'iters'])
def test_checkpoint_without_states_warns_and_keeps_the_order_of_the_data(
    make_runner, monkeypatch, loop, batches
):
    bare = make_runner([], checkpoint=dict(interval=4, by_epoch=False), **loop)
    bare.train()
    whole, none = warnings_of(make_runner, monkeypatch, **loop)
    assert none == []
    # At iteration 4 the first epoch is over, which mmengine repeats in an epoch-based loop.
    rest, messages = warnings_of(
        make_runner, monkeypatch, resume=True, load_from=f'{bare.work_dir}/iter_4.pth', **loop
    )
    assert len(messages) == 1 and 'was written without RandomStateHook' in messages[0]
    if loop is ITERS:
        assert [note[2] for note in rest.losses.values()] == [
            whole.losses[t][2] for t in range(4, 12)
        ]


def test_another_batch_size_warns(make_runner, monkeypatch):
    whole = make_runner([RandomStateHook()], checkpoint=dict(interval=1), **EPOCHS)
    whole.train()
    _, messages = warnings_of(
        make_runner,
        monkeypatch,
        resume=True,
        loader=dict(batch_size=4),
        load_from=f'{whole.work_dir}/epoch_1.pth',
        **EPOCHS,
    )
    assert len(messages) == 1 and 'an epoch had 4 batches and now has 2' in messages[0]


@pytest.mark.parametrize(
    'loop, done',
    [(EPOCHS, 'pass 2 of the data after 2'), (ITERS, 'pass 1 of the data after 6')],
    ids=['epochs', 'iters'],
)
def test_says_where_in_the_data_a_resumed_run_goes_on(make_runner, monkeypatch, loop, done):
    # After 6 of 12 iterations, 4 of them an epoch; the infinite sampler is still in its first pass.
    whole = make_runner([RandomStateHook()], checkpoint=dict(interval=6, by_epoch=False), **loop)
    whole.train()
    rest = make_runner(
        [RandomStateHook()], resume=True, load_from=f'{whole.work_dir}/iter_6.pth', **loop
    )
    lines = []
    monkeypatch.setattr(rest.logger, 'info', lines.append)
    rest.train()
    assert [line for line in lines if 'continues in' in str(line)] == [
        f'RandomStateHook: continues in {done} of its batches.'
    ]


def test_dataset_without_index_is_refused(make_runner):

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

        def __len__(self):
            return 4

    runner = make_runner([RandomStateHook()])
    runner._train_dataloader = DataLoader(Stream(), batch_size=2)
    with pytest.raises(ValueError, match='cannot resume Stream, an IterableDataset'):
        runner.train()


def test_states_are_saved_in_safe_types(train):
    runner, _ = train(checkpoint=dict(interval=1), **EPOCHS)
    saved = torch.load(f'{runner.work_dir}/epoch_3.pth', weights_only=True)['random_states']
    assert sorted(saved['states'][0]) == ['numpy', 'python', 'torch'] or torch.cuda.is_available()
    assert (saved['epoch'], saved['batches'], saved['batches_per_epoch']) == (3, 0, 4)
