"""``frozen_stages``, ``norm_eval`` and ``with_cp`` together, for every backbone family."""

import itertools

import pytest
import torch
from torch import nn

from slab_det.layers import set_ratio
from tests import tiny_backbones

SIZE = (40, 70)


def stage_of(name: str) -> int:
    """The number that ``frozen_stages`` must reach to freeze the entry ``name``: 0 for the
    embedding, k + 1 for stage k."""
    parts = name.split('.')
    if parts[0].startswith('norm'):  # an output norm
        return int(parts[0][4:]) + 1
    if parts[1] in ('patch_embed', 'pos_embed', 'cls_token'):
        return 0
    if parts[1] == 'norm':  # the closing norm of DeiT, after its third block
        return 3
    assert parts[1] in ('layers', 'blocks'), name
    return int(parts[2]) + 1


def backward(backbone, seed=0):
    x = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
    outputs = backbone(x.requires_grad_())
    sum(out.square().mean() for out in outputs).backward()
    return outputs


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
@pytest.mark.parametrize('frozen, norm_eval', itertools.product(range(-1, 4), [False, True]))
def test_what_is_frozen_and_nothing_else(family, frozen, norm_eval):
    options = dict(frozen_stages=frozen, norm_eval=norm_eval)
    torch.manual_seed(0)
    plain = tiny_backbones.build(family, **options)
    recomputed = tiny_backbones.build(family, with_cp=True, **options)
    recomputed.load_state_dict(plain.state_dict())
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    for backbone in (plain, recomputed):
        set_ratio(backbone, 0.5)
        backbone.eval()
        assert backbone.train() is backbone
        assert backbone.training
        for name, module in backbone.named_modules():
            if (
                next(module.parameters(recurse=False), None) is not None
                and module is not backbone.net
            ):
                settled = isinstance(module, nn.BatchNorm1d) and norm_eval
                assert module.training != (stage_of(name) <= frozen or settled), name
        backward(backbone)
        for name, parameter in backbone.named_parameters():
            assert parameter.requires_grad == (stage_of(name) > frozen), name
            assert (parameter.grad is None) == (stage_of(name) <= frozen), name
        for name, buffer in backbone.named_buffers():
            if name.endswith('running_mean'):
                moves = stage_of(name) > frozen and not norm_eval
                assert torch.equal(buffer, before[name]) != moves, name
            if name.endswith('num_batches_tracked'):
                assert buffer == (stage_of(name) > frozen and not norm_eval), name
            if name.endswith('ratio'):
                assert buffer == 0.5, name
    # Recomputing moves the statistics once and to the same values.
    for (name, value), same in zip(plain.state_dict().items(), recomputed.state_dict().values()):
        torch.testing.assert_close(same, value, rtol=0, atol=0, msg=name)
    for (name, parameter), twin in zip(plain.named_parameters(), recomputed.named_parameters()):
        if parameter.grad is not None:
            torch.testing.assert_close(twin[1].grad, parameter.grad, msg=name)


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_frozen_parts_compute_alike_in_training_and_evaluation(family):
    """Drop path, statistics and ratio of a backbone that is frozen throughout stand still."""
    torch.manual_seed(0)
    backbone = tiny_backbones.build(family, frozen_stages=3, drop_path_rate=0.5)
    set_ratio(backbone, 0.3)
    x = torch.randn(2, 3, *SIZE)
    outputs = backbone.train()(x)
    assert not any(out.requires_grad for out in outputs)
    for out, same in zip(outputs, backbone.eval()(x)):
        torch.testing.assert_close(out, same, rtol=1e-5, atol=1e-5)
