"""Activation checkpointing on two processes computes what one process computes without it."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from slab_det.layers import set_ratio
from tests import tiny_backbones
from tests.processes import on_two_processes

SIZE = (40, 70)
STEPS = 2  # the second fails where the first has left a parameter without gradient


def build(family, with_cp):
    torch.manual_seed(0)
    backbone = tiny_backbones.build(family, with_cp=with_cp).double().train()
    set_ratio(backbone, 0.5)
    return backbone


def images(step):
    """The joint batch: two images of the first process and two of the second."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, *SIZE, generator=generator, dtype=torch.float64) + 0.1 * torch.arange(
        4
    ).view(4, 1, 1, 1)


def step(backbone, x):
    """Backward of a loss that is the mean over images; gradients of steps add up."""
    x.requires_grad_()
    sum(out.square().mean() for out in backbone(x)).backward()
    return x.grad


def work(rank):
    results = {}
    for family in tiny_backbones.FAMILIES:
        backbone = build(family, with_cp=True)
        parallel = DistributedDataParallel(backbone, broadcast_buffers=False)
        results[family] = dict(
            images=[
                step(parallel, images(i)[2 * rank : 2 * rank + 2].clone()) for i in range(STEPS)
            ],
            gradients={name: p.grad for name, p in backbone.named_parameters()},
            state=backbone.state_dict(),
        )
    return results


@pytest.fixture(scope='module')
def parts():
    return on_two_processes(work)


@pytest.mark.slow
@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_two_processes_that_recompute_equal_one_with_the_joint_batch(parts, family):
    backbone = build(family, with_cp=False)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    expected = [step(backbone, images(i)) for i in range(STEPS)]
    close = dict(rtol=1e-8, atol=1e-10)
    for i, wanted in enumerate(expected):
        # The loss of a process is the mean over its half of the images.
        found = torch.cat([part[family]['images'][i] for part in parts]) / 2
        torch.testing.assert_close(found, wanted, **close)
    for part in parts:
        for name, parameter in backbone.named_parameters():
            assert parameter.grad.abs().max() > 0, name
            torch.testing.assert_close(
                part[family]['gradients'][name], parameter.grad, msg=name, **close
            )
        for name, value in backbone.state_dict().items():
            torch.testing.assert_close(part[family]['state'][name], value, msg=name, **close)
            if name.endswith('num_batches_tracked'):
                assert part[family]['state'][name] == STEPS, name
            if name.endswith('running_mean'):
                assert not torch.equal(value, before[name]), name
