import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from slab_det.layers import PRepBN, set_ratio
from slab_det.mm.analysis.schedule import training_schedule


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), PRepBN(4))
        self.head = nn.Linear(4, 2)


def config(**changes):
    cfg = Config(
        dict(
            train_dataloader=dict(
                batch_size=2,
                num_workers=4,
                persistent_workers=True,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=None,
            ),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=4),
            optim_wrapper=dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=0.1)),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.5, begin=0, end=3, by_epoch=False),
                dict(type='MultiStepLR', milestones=[2, 3], gamma=0.1, by_epoch=True),
            ],
            custom_hooks=[dict(type='PRepBNHook', end=0.5)],
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def test_rates_and_ratio_of_an_epoch_based_training():
    found = training_schedule(config(), Model(), num_images=9)  # 5 iterations an epoch
    (rates,) = found.rates.values()
    # Up from half in steps over iterations 0 to 3, then a tenth from epochs 2 and 3 on.
    assert len(rates) == 20
    assert rates[0] == pytest.approx(0.05)
    assert np.allclose(rates[3:10], 0.1) and np.all(np.diff(rates[:3]) > 0)
    assert np.allclose(rates[10:15], 0.01) and np.allclose(rates[15:], 0.001)
    assert np.allclose(found.ratio, [max(0, 1 - i / 10) for i in range(20)])
    assert (found.epoch_length, found.batch_size, found.accumulation) == (5, 2, 1)
    assert list(found.parameters.values()) == [sum(value.numel() for value in Model().parameters())]


def test_iteration_based_training_with_accumulated_gradients():
    found = training_schedule(
        config(
            train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=12),
            train_dataloader=dict(sampler=dict(type='InfiniteSampler', shuffle=True)),
            optim_wrapper=dict(accumulative_counts=4),
            param_scheduler=[dict(type='CosineAnnealingLR', T_max=12, by_epoch=False)],
        ),
        Model(),
        num_images=100,
    )
    (rates,) = found.rates.values()
    assert np.allclose(rates, [0.05 * (1 + math.cos(math.pi * i / 12)) for i in range(12)])
    assert np.allclose(found.ratio, [max(0, 1 - i / 6) for i in range(12)])
    assert (found.epoch_length, found.accumulation) == (None, 4)


@pytest.mark.parametrize('processes, length', [(1, 13), (3, 5), (8, 2)])
def test_processes_share_the_images_and_scale_the_rate(processes, length):
    cfg = config(auto_scale_lr=dict(base_batch_size=4, enable=True), param_scheduler=[])
    found = training_schedule(cfg, Model(), num_images=26, processes=processes)
    assert found.epoch_length == length and found.batch_size == 2 * processes
    (rates,) = found.rates.values()
    assert np.allclose(rates, 0.1 * 2 * processes / 4)


def test_parameters_of_another_rate_have_a_curve_of_their_own():
    model = Model()
    found = training_schedule(
        config(
            optim_wrapper=dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
        ),
        model,
        num_images=10,
    )
    assert list(found.parameters) == pytest.approx([0.1, 0.01])
    assert list(found.parameters.values()) == [
        sum(value.numel() for value in part.parameters()) for part in (model.head, model.backbone)
    ]
    head, backbone = found.rates.values()
    assert np.allclose(head, 10 * backbone)


def test_ratio_starts_from_that_of_the_model_and_is_absent_without_hook():
    model = Model()
    set_ratio(model, 0.4)
    assert np.allclose(training_schedule(config(), model, 10).ratio[:2], [0.4, 0.4 * 0.9])
    assert training_schedule(config(custom_hooks=[]), model, 10).ratio is None


def test_the_curve_is_that_of_a_real_training(tmp_path):
    """Epochs, warm-up and ratio as a Runner goes through them."""
    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Trainable(BaseModel):
        def __init__(self):
            super().__init__()
            self.net = Model()

        def forward(self, inputs, mode='tensor'):
            return dict(loss=self.net.head(self.net.backbone(torch.stack(inputs))).mean())

    class Note(Hook):
        seen: list = []

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            norm = runner.model.net.backbone[1]
            rate = runner.optim_wrapper.optimizer.param_groups[0]['lr']
            self.seen.append((rate, float(norm.ratio)))

    data = [dict(inputs=torch.randn(3, 4)) for _ in range(9)]
    cfg = config()
    runner = Runner(
        Trainable(),
        str(tmp_path),
        train_cfg=dict(cfg.train_cfg),
        train_dataloader=dict(batch_size=2, dataset=data, sampler=dict(type='DefaultSampler')),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=cfg.param_scheduler,
        log_level='ERROR',
        default_hooks=dict(logger=None, checkpoint=None),
        custom_hooks=[*cfg.custom_hooks, Note()],
    )
    runner.train()
    found = training_schedule(config(), Trainable(), num_images=9)
    (rates,) = found.rates.values()
    assert np.allclose(rates, [rate for rate, _ in Note.seen])
    assert np.allclose(found.ratio, [ratio for _, ratio in Note.seen], atol=1e-6)


def test_several_optimizers_are_refused():
    cfg = config()
    cfg.optim_wrapper = dict(first=dict(), second=dict())
    with pytest.raises(ValueError, match='several optimizers'):
        training_schedule(cfg, Model(), 10)
