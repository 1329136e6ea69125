"""What the hook calibrates and when, in both loops, with EMA, and that training does not notice."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

from slab_det.layers import set_ratio
from slab_det.mm.hooks import BNCalibrationHook, PRepBNHook
from slab_det.mm.resume import RandomStateHook
from slab_det.statistics.calibration import calibrate_batch_norm, get_statistics, norm_sites
from tests.mm.tiny_runner import CHANNELS, Count, Numbers, TinyModel
from tests.processes import on_two_processes

LOOPS = pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])


def calibration(**kwargs):
    kwargs = {'num_images': 6, 'dataset': Numbers(6), 'num_workers': 0, 'tolerance': 1e-6, **kwargs}
    return BNCalibrationHook(**kwargs)


def seeded(dropout=0.0):
    torch.manual_seed(5)
    return TinyModel(dropout)


class Watch(Hook):
    """Notes losses, random numbers, weights and statistics."""

    priority = 'LOWEST'

    def __init__(self):
        self.losses, self.random, self.running, self.validated = [], [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())
        self.random.append(torch.rand(1).item())
        self.running.append(flat(runner.model))
        self.weights = runner.model.first.weight.detach().clone()
        self.training = runner.model.training

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 0 and len(runner.val_dataloader) > 1:
            self.validated.append((flat(runner.model), expected(runner.model)))


def flat(model):
    return [value for pair in get_statistics(norm_sites(model)).values() for value in pair]


@torch.no_grad()
def expected(model, length=6):
    """Mean and variance that the norms of a TinyModel meet, layer by layer."""
    data = Numbers(length)
    x = torch.cat([data[i]['inputs'] for i in range(length)]).double()
    x = x @ model.first.weight.double().t() + model.first.bias.double()
    out = []
    for norm in (model.norm1, model.norm2):
        mean, var = x.mean(0), x.var(0)
        out += [mean.float(), var.float()]
        bn, g = norm.repbn.bn, float(norm.ratio)
        normed = bn.weight * (x - mean) / (var + bn.eps).sqrt() + bn.bias + norm.repbn.eta * x
        ln = nn.functional.layer_norm(
            x, (CHANNELS,), norm.ln.weight.double(), norm.ln.bias.double(), norm.ln.eps
        )
        x = g * ln + (1 - g) * normed
    return out


def close(found, wanted, **kwargs):
    torch.testing.assert_close(list(found), list(wanted), **{'rtol': 1e-4, 'atol': 1e-5, **kwargs})


def iterations(by_epoch):
    """A training of 8 iterations that validates after every fourth."""
    return dict(
        by_epoch=by_epoch,
        length=2 if by_epoch else 8,
        val_interval=1 if by_epoch else 4,
        validate=True,
    )


@LOOPS
def test_validation_meets_the_true_average_and_training_does_not_notice(make_runner, by_epoch):
    plain, watch = Watch(), Watch()
    make_runner([PRepBNHook(), plain], seeded(0.2), **iterations(by_epoch)).train()
    runner = make_runner([PRepBNHook(), calibration(), watch], seeded(0.2), **iterations(by_epoch))
    runner.train()
    assert len(watch.validated) == 2
    for statistics, wanted in watch.validated:
        close(statistics, wanted)
    assert watch.losses == plain.losses and watch.random == plain.random and watch.training
    for found, wanted in zip(watch.running, plain.running):
        close(found, wanted, rtol=0, atol=0)
    with pytest.raises(AssertionError):  # the running ones are others
        close(plain.validated[-1][0], plain.validated[-1][1])


class WatchAll(Watch):
    """Draws from all three generators."""

    def after_train_iter(self, *args, **kwargs):
        super().after_train_iter(*args, **kwargs)
        self.random[-1] = self.random[-1], float(np.random.rand()), random.random()


@pytest.mark.parametrize(
    'options',
    [dict(), dict(fit_layer_norm=True, at_val=False, at_end=False)],
    ids=['calibration', 'fit'],
)
def test_images_that_draw_random_numbers_do_not_shift_those_of_training(make_runner, options):
    plain, watch = WatchAll(), WatchAll()
    make_runner([PRepBNHook(), plain], seeded(), **iterations(True)).train()
    drawing = calibration(dataset=Numbers(6, augment=True), max_passes=2, **options)
    make_runner([PRepBNHook(), drawing, watch], seeded(), **iterations(True)).train()
    assert len(plain.random) == 8 and watch.random == plain.random


@LOOPS
@pytest.mark.parametrize('at_end', [True, False])
def test_the_last_checkpoint_is_calibrated_and_earlier_ones_are_not(
    make_runner, tmp_path, by_epoch, at_end
):
    watch = Watch()
    checkpoint = dict(interval=1 if by_epoch else 4, by_epoch=by_epoch)
    names = ['epoch_1', 'epoch_2'] if by_epoch else ['iter_4', 'iter_8']
    runner = make_runner(
        [PRepBNHook(), calibration(at_end=at_end), watch],
        checkpoint=checkpoint,
        work_dir='run',
        **iterations(by_epoch),
    )
    runner.train()
    first, last = (torch.load(tmp_path / 'run' / f'{name}.pth') for name in names)
    model = TinyModel()
    model.load_state_dict(first['state_dict'])
    close(flat(model), watch.running[3], rtol=0, atol=0)
    model.load_state_dict(last['state_dict'])
    close(flat(model), expected(model) if at_end else watch.running[7])
    close(flat(runner.model), flat(model), rtol=0, atol=0)
    assert ('bn_calibration' in last) == at_end and 'bn_calibration' not in first


@LOOPS
def test_validation_meets_the_running_statistics_where_that_is_asked_for(make_runner, by_epoch):
    watch = Watch()
    make_runner([PRepBNHook(), calibration(at_val=False), watch], **iterations(by_epoch)).train()
    close(watch.validated[0][0], watch.running[3], rtol=0, atol=0)


def test_a_norm_of_two_names_is_calibrated_under_both(make_runner, tmp_path):
    model = TinyModel()
    model.twin = model.norm1
    make_runner(
        [PRepBNHook(), calibration()], model, length=1, work_dir='run', checkpoint=dict(interval=1)
    ).train()
    state = torch.load(tmp_path / 'run/epoch_1.pth')['state_dict']
    model = TinyModel()
    model.load_state_dict(
        {name: value for name, value in state.items() if not name.startswith('twin.')}
    )
    for name, wanted in zip(('mean', 'var'), expected(model)):
        for norm in ('norm1', 'twin'):
            close([state[f'{norm}.repbn.bn.running_{name}']], [wanted])


@pytest.mark.parametrize('update_buffers', [True, False])
def test_the_averaged_model_is_calibrated(make_runner, tmp_path, update_buffers):
    plain, watch = Watch(), Watch()
    ema = dict(momentum=0.2, update_buffers=update_buffers)
    make_runner([EMAHook(**ema), PRepBNHook(), plain], seeded(), **iterations(True)).train()
    averaging = EMAHook(**ema)
    runner = make_runner(
        [averaging, PRepBNHook(), calibration(), watch],
        seeded(),
        work_dir='run',
        checkpoint=dict(interval=1),
        **iterations(True),
    )
    runner.train()
    # A test after training swaps the averaged model in; the other one keeps its running statistics.
    close(flat(averaging.ema_model.module), expected(averaging.ema_model.module))
    close(flat(runner.model), watch.running[-1], rtol=0, atol=0)
    for (statistics, wanted), (_, other) in zip(watch.validated, plain.validated):
        close(statistics, wanted)
        close(wanted, other, rtol=0, atol=1e-6)  # the same averaged weights
    assert watch.losses == plain.losses
    for found, wanted in zip(watch.running, plain.running):
        close(found, wanted, rtol=0, atol=0)
    file = torch.load(tmp_path / 'run/epoch_2.pth')
    model = TinyModel()
    model.load_state_dict(file['state_dict'])
    assert not torch.equal(model.first.weight, watch.weights)
    close(flat(model), expected(model))
    source = {
        key[7:]: value for key, value in file['ema_state_dict'].items() if key.startswith('module.')
    }
    model.load_state_dict(source)
    close(flat(model), watch.running[-1], rtol=0, atol=0)


@pytest.mark.parametrize('ema', [None, True, False], ids=['plain', 'ema-buffers', 'ema'])
def test_a_calibrated_checkpoint_resumes_with_the_running_statistics(make_runner, tmp_path, ema):
    def hooks(watch):
        averaging = [] if ema is None else [EMAHook(momentum=0.2, update_buffers=ema)]
        return [
            *averaging,
            RandomStateHook(),
            PRepBNHook(end=12, by_epoch=False),
            calibration(),
            watch,
        ]

    whole, cut, resumed = Watch(), Watch(), Watch()
    runner = make_runner(hooks(whole), seeded(), length=4, validate=True)
    runner.train()
    make_runner(
        hooks(cut), seeded(), length=2, validate=True, work_dir='cut', checkpoint=dict(interval=1)
    ).train()
    again = make_runner(
        hooks(resumed),
        length=4,
        validate=True,
        resume=True,
        load_from=str(tmp_path / 'cut/epoch_2.pth'),
    )
    again.train()
    assert resumed.losses == whole.losses[8:]
    close(resumed.running[-1], whole.running[-1], rtol=0, atol=1e-7)
    for (found, _), (wanted, _) in zip(resumed.validated, whole.validated[2:]):
        close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize('ema', [False, True])
def test_a_training_from_a_calibrated_checkpoint_begins_with_its_calibrated_statistics(
    make_runner, tmp_path, ema
):
    """Only a resumption goes on with the running ones."""

    def hooks():
        return [*[EMAHook(momentum=0.2, update_buffers=True)] * ema, PRepBNHook(), calibration()]

    make_runner(hooks(), length=1, work_dir='first', checkpoint=dict(interval=1)).train()
    path = tmp_path / 'first/epoch_1.pth'
    wanted = TinyModel()
    wanted.load_state_dict(torch.load(path)['state_dict'])
    close(flat(wanted), expected(wanted))
    begun = []
    watch = Watch()
    watch.before_train_iter = lambda runner, *args, **kwargs: begun.append(flat(runner.model))
    make_runner([*hooks(), watch], length=1, load_from=str(path)).train()
    close(begun[0], flat(wanted), rtol=0, atol=0)


def test_the_best_checkpoint_holds_what_was_validated(make_runner, tmp_path):
    plain, watch = Watch(), Watch()
    make_runner([PRepBNHook(), plain], seeded(), **iterations(True)).train()
    runner = make_runner(
        [PRepBNHook(), calibration(at_end=False), watch],
        seeded(),
        work_dir='run',
        checkpoint=dict(interval=-1, save_best='samples', rule='greater'),
        **iterations(True),
    )
    runner.train()
    for found, wanted in zip(
        watch.running, plain.running
    ):  # the file's statistics are not the model's
        close(found, wanted, rtol=0, atol=0)
    (best,) = (tmp_path / 'run').glob('best_*.pth')
    model = TinyModel()
    model.load_state_dict(torch.load(best)['state_dict'])
    close(flat(model), watch.validated[0][0], rtol=0, atol=0)


@LOOPS
@pytest.mark.parametrize('freeze_from', [0.5, 4, 1])
def test_the_phase_updates_statistics_and_nothing_else(make_runner, by_epoch, freeze_from):
    if freeze_from == 0.5 or (freeze_from == 1) == by_epoch:
        watch = Watch()
        model = TinyModel(dropout=0.5)
        model.last.bias.requires_grad_(False)  # by the user, for good
        model.attention = nn.MultiheadAttention(
            CHANNELS, 1, dropout=0.5
        )  # its dropout is not a module
        dropped, attention_drops = [], []
        model.drop.register_forward_hook(
            lambda module, _, out: dropped.append(bool((out == 0).any()))
        )
        model.drop.register_forward_hook(
            lambda *_: attention_drops.append(model.attention.training)
        )
        settings = dict(iterations(by_epoch), validate=False)
        runner = make_runner(
            [
                PRepBNHook(end=0.5),
                watch,
                BNCalibrationHook(
                    freeze_from=freeze_from, by_epoch=by_epoch, at_val=False, at_end=False
                ),
            ],
            model,
            optim=dict(clip_grad=dict(max_norm=1.0)),
            checkpoint=dict(interval=1, by_epoch=by_epoch),
            **settings,
        )
        weights = []
        watch.before_train_iter = lambda runner, *args, **kwargs: weights.append(
            {name: p.detach().clone() for name, p in runner.model.named_parameters()}
        )
        runner.train()
        weights.append(dict(runner.model.named_parameters()))
        moved = [
            any(not torch.equal(a[name], b[name]) for name in a)
            for a, b in zip(weights, weights[1:])
        ]
        assert moved == [True] * 4 + [False] * 4
        assert dropped == attention_drops == [True] * 4 + [False] * 4
        assert all(not torch.equal(a[0], b[0]) for a, b in zip(watch.running, watch.running[1:]))
        assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
            'last.bias'
        ]
        assert 'update_params' not in vars(runner.optim_wrapper)


def test_the_phase_goes_on_after_a_resumption(make_runner, tmp_path):
    def hooks(watch):
        return [RandomStateHook(), PRepBNHook(end=0.5), calibration(freeze_from=0.5), watch]

    whole, cut = Watch(), Watch()
    make_runner(hooks(whole), length=4, work_dir='whole', checkpoint=dict(interval=1)).train()
    make_runner(
        hooks(cut), length=4, resume=True, load_from=str(tmp_path / 'whole/epoch_3.pth')
    ).train()
    assert cut.losses == whole.losses[12:]
    assert torch.equal(cut.weights, whole.weights)
    close(cut.running[-1], whole.running[-1], rtol=0, atol=0)


def warnings_of(runner, monkeypatch):
    messages = []
    monkeypatch.setattr(runner.logger, 'warning', messages.append)
    runner.train()
    return [message for message in messages if message.startswith('BNCalibrationHook')]


def test_a_phase_that_begins_before_the_ratio_arrives_is_noticed(make_runner, monkeypatch):
    runner = make_runner([PRepBNHook(end=0.8), calibration(freeze_from=0.5)], length=2)
    (found,) = warnings_of(runner, monkeypatch)
    assert (
        'freeze_from=0.5 (iteration 4) lies before the ratio of PRepBN arrives at iteration 6.4'
        in found
    )
    runner = make_runner([PRepBNHook(end=0.5), calibration(freeze_from=0.5)], length=2)
    assert warnings_of(runner, monkeypatch) == []  # it arrives just then


@LOOPS
@pytest.mark.parametrize('behind', [1.0, 8, 9])
def test_a_phase_that_never_begins_is_noticed(make_runner, monkeypatch, by_epoch, behind):
    def trained(freeze_from):
        watch = Watch()
        phase = calibration(freeze_from=freeze_from, by_epoch=False)
        runner = make_runner([PRepBNHook(end=0.5), phase, watch], seeded(), **iterations(by_epoch))
        return warnings_of(runner, monkeypatch), watch.weights

    found, weights = trained(behind)
    (message,) = found
    assert (
        f'freeze_from={behind} (iteration {9 if behind == 9 else 8}) does not lie before' in message
    )
    assert 'the end of training at iteration 8' in message and 'lower freeze_from' in message
    quiet, never_frozen = trained(None)
    assert quiet == [] and torch.equal(weights, never_frozen)  # it is as the warning says
    quiet, frozen_at_last = trained(7)
    assert quiet == [] and not torch.equal(weights, frozen_at_last)


@LOOPS
def test_a_training_that_stops_early_says_that_its_last_checkpoint_is_not_calibrated(
    make_runner, tmp_path, monkeypatch, by_epoch
):
    def trained(patience, at_end):
        stop = EarlyStoppingHook(monitor='samples', rule='greater', patience=patience)
        settings = {**iterations(by_epoch), 'length': 4 if by_epoch else 16}
        runner = make_runner(
            [PRepBNHook(), calibration(at_end=at_end), stop],
            work_dir='run',
            checkpoint=dict(interval=1 if by_epoch else 4, by_epoch=by_epoch),
            **settings,
        )
        return warnings_of(runner, monkeypatch), runner.iter

    # The number of samples never grows: the second validation stops it.
    (message,), last = trained(1, True)
    assert (
        last == 8
        and 'stopped early at iteration 8 of 16' in message
        and 'tools/calibrate_bn.py' in message
    )
    written = torch.load(tmp_path / f'run/{"epoch_2" if by_epoch else "iter_8"}.pth')
    assert 'bn_calibration' not in written  # it is as the warning says
    assert trained(1, False) == ([], 8)
    assert trained(3, True) == ([], 16)  # would stop it where it ends anyway


def test_a_finished_training_that_is_resumed_does_not_warn(make_runner, tmp_path, monkeypatch):
    arguments = dict(length=1, work_dir='run', checkpoint=dict(interval=1))
    make_runner([PRepBNHook(), calibration()], **arguments).train()
    again = make_runner(
        [PRepBNHook(), calibration()],
        resume=True,
        load_from=str(tmp_path / 'run/epoch_1.pth'),
        **arguments,
    )
    assert warnings_of(again, monkeypatch) == []


def test_statistics_that_still_change_are_noticed(make_runner, monkeypatch):
    model = seeded()
    set_ratio(model, 0.0)  # at ratio 1 the second norm's inputs do not depend on the first one's
    runner = make_runner([calibration(max_passes=2, tolerance=0.0, at_val=False)], model, length=1)
    (message,) = warnings_of(runner, monkeypatch)
    assert 'the statistics still change by' in message and 'raise max_passes' in message


def test_the_branch_is_fitted_once_before_a_training_from_layer_norm(make_runner, tmp_path, capsys):
    def hooks(watch):
        return [
            RandomStateHook(),
            PRepBNHook(),
            calibration(fit_layer_norm=True, at_val=False, at_end=False),
            watch,
        ]

    plain, fitted = Watch(), Watch()
    etas = []
    fitted.before_train_iter = lambda runner, *args, **kwargs: etas.append(
        float(runner.model.norm1.repbn.eta)
    )
    make_runner([RandomStateHook(), PRepBNHook(), plain], seeded(), length=2).train()
    make_runner(
        hooks(fitted), seeded(), length=2, work_dir='run', checkpoint=dict(interval=1)
    ).train()
    words = capsys.readouterr().out
    assert 'fit to LayerNorm, pass 1: ' in words and 'calibration, pass' not in words
    assert etas[0] == 0 and fitted.random == plain.random
    assert fitted.losses[0] == plain.losses[0]  # the ratio of the first iteration is 1
    assert fitted.losses[1:] != plain.losses[1:]
    resumed = Watch()
    make_runner(
        hooks(resumed), length=2, resume=True, load_from=str(tmp_path / 'run/epoch_1.pth')
    ).train()
    assert resumed.losses == fitted.losses[4:]


def test_priority_is_between_the_ratio_and_the_checkpoint():
    from mmengine.runner import get_priority

    order = [
        EMAHook.priority,
        PRepBNHook.priority,
        BNCalibrationHook.priority,
        CheckpointHook.priority,
    ]
    assert [get_priority(p) for p in order] == sorted(get_priority(p) for p in order)
    assert len(set(map(get_priority, order))) == 4


def test_a_test_is_calibrated_where_asked_for(make_runner, capsys):
    model = TinyModel()
    seen = []
    model.norm1.register_forward_hook(
        lambda *_: seen.append(model.norm1.repbn.bn.running_mean.clone())
    )
    loader = dict(
        dataset=Numbers(3),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=pseudo_collate,
        batch_size=1,
        num_workers=0,
    )
    runner = make_runner(
        [calibration(at_test=True)],
        model,
        test_dataloader=loader,
        test_cfg=dict(),
        test_evaluator=Evaluator(Count()),
    )
    runner.test()
    torch.testing.assert_close(seen[-1], expected(model)[0], rtol=1e-4, atol=1e-5)
    words = capsys.readouterr().out
    assert 'calibration, pass 1: 6 of 6\n' in words  # how far it is
    assert torch.equal(model.norm1.repbn.bn.running_mean, torch.zeros(CHANNELS))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(num_images=0), 'num_images=0 must be a whole number of at least 1'),
        (dict(max_passes=1.5), 'max_passes=1.5 must be a whole number'),
        (dict(tolerance='x'), "tolerance='x' must be a number"),
        (dict(tolerance=None), 'tolerance=None must be a number of at least 0'),
        (dict(tolerance=True), 'tolerance=True must be a number'),
        (dict(tolerance=[0.01]), 'tolerance=.0.01. must be a number'),
        (
            dict(dataset='data/cells'),
            "dataset='data/cells' is not a data set: give one, or the config of one",
        ),
        (dict(dataset=Path('data/cells')), 'data/cells.* is not a data set'),
        (dict(dataset=5), 'dataset=5 is not a data set'),
        (
            dict(dataset=dict(batch_size=1, dataset=dict(type='CocoDataset'))),
            "'batch_size': 1.* is not a data set",
        ),
        (dict(at_val='False'), "at_val='False' must be True or False"),
        (dict(at_end=1), 'at_end=1 must be'),
        (dict(at_test='no'), "at_test='no' must be"),
        (dict(by_epoch='False'), "by_epoch='False' must be"),
        (dict(fit_layer_norm=None), 'fit_layer_norm=None must be'),
        (dict(include_frozen='False'), "include_frozen='False' must be"),
        (dict(freeze_from=1.5), 'freeze_from=1.5 is neither a fraction of training'),
        (dict(freeze_from=-1), 'freeze_from=-1 is negative'),
        (dict(at_val=False, at_end=False), 'the hook would do nothing'),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BNCalibrationHook(**arguments)


def test_refuses_a_training_it_could_not_calibrate_before_it_starts(make_runner):
    class Eval(TinyModel):
        def train(self, mode=True):
            super().train(mode)
            for norm in (self.norm1, self.norm2):
                norm.eval()
            return self

    watch = Watch()
    with pytest.raises(ValueError, match='all 2 BatchNorm of Eval are frozen'):
        make_runner([calibration(), watch], Eval()).train()
    with pytest.raises(ValueError, match='give them as dataset='):
        make_runner([BNCalibrationHook(), watch]).train()
    with pytest.raises(ValueError, match='custom_hooks has 2 BNCalibrationHook'):
        # The second one would put the statistics of the first back for those of the training.
        make_runner([calibration(), calibration(at_end=False), watch]).train()
    assert watch.losses == []


def in_two_processes(rank, folder):
    out = {}
    data = [dict(inputs=[Numbers()[i]['inputs']]) for i in range(6)]
    for name, mine in (('unequal', (data[:4], data[4:])), ('none', (data, []))):
        torch.manual_seed(0)
        model = TinyModel()
        model.norm1.set_ratio(0.5)
        report = calibrate_batch_norm(model, mine[rank], tolerance=1e-6)
        assert report.batches == 6
        out[name] = flat(model), expected(model)
    watch = Watch()
    watch.after_train_iter = lambda runner, *args, **kwargs: watch.running.append(
        (flat(runner.model.module), runner.model.module.first.weight.detach().clone())
    )
    loader = dict(
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=pseudo_collate,
        batch_size=2,
        num_workers=0,
    )
    runner = Runner(
        model=TinyModel(),
        work_dir=folder,
        launcher='pytorch',
        experiment_name='two',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
            )
        ),
        train_dataloader=dict(loader, dataset=Numbers(16)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_dataloader=dict(loader, dataset=Numbers(2)),
        val_cfg=dict(),
        val_evaluator=Evaluator(Count()),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        custom_hooks=[
            PRepBNHook(end=0.5),
            calibration(num_images=5, dataset=Numbers(5), freeze_from=0.5),
            watch,
        ],
    )
    runner.train()
    model = runner.model.module
    out.update(trained=(flat(model), expected(model, 5)), running=watch.running)
    return out


@pytest.mark.slow
def test_two_processes_agree_whatever_their_shares(tmp_path):
    first, second = on_two_processes(in_two_processes, str(tmp_path))
    for name in ('unequal', 'none', 'trained'):
        close(first[name][0], first[name][1])
        close(first[name][0], second[name][0], rtol=0, atol=0)
    for (one, weights), (other, others) in zip(first['running'], second['running']):
        close(one, other, rtol=0, atol=1e-6)
        assert torch.equal(weights, others)
    frozen = [weights for _, weights in first['running'][3:]]
    assert len(frozen) == 5 and all(torch.equal(weights, frozen[0]) for weights in frozen)
    assert not torch.equal(first['running'][2][1], frozen[0])
    statistics = [running for running, _ in first['running'][3:]]
    assert all(not torch.equal(a[0], b[0]) for a, b in zip(statistics, statistics[1:]))
