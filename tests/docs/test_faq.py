"""The messages in the FAQ are those that users see."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from slab_det import compat
from slab_det.deploy import reparameterize
from slab_det.layers import PRepBN
from slab_det.mm.hooks import PRepBNHook

PAGE = (Path(__file__).parents[2] / 'docs' / 'faq.md').read_text()
MESSAGES = [block.strip() for block in re.findall(r'```text\n(.*?)```', PAGE, re.DOTALL)]


def missing_backbone(monkeypatch):
    monkeypatch.delitem(MODELS.module_dict, 'SLABSwinTransformer')
    MODELS.build(dict(type='SLABSwinTransformer'))


def wrong_channels(monkeypatch):
    neck = MODELS.build(dict(type='FPN', in_channels=[256, 512], out_channels=256, num_outs=2))
    neck([torch.zeros(2, 96, 200, 304), torch.zeros(2, 192, 100, 152)])


def channels_first(monkeypatch):
    PRepBN(4)(torch.zeros(1, 4, 8, 8))


def no_prepbn(monkeypatch):

    class RetinaNet(nn.Module):
        pass

    PRepBNHook().before_train(SimpleNamespace(model=RetinaNet(), hooks=[]))


def ratio_above_0(monkeypatch):
    reparameterize(nn.ModuleDict({'norm1': PRepBN(4)}))


def newer_mmcv(monkeypatch):
    import mmcv

    monkeypatch.setattr(mmcv, '__version__', '2.2.0')
    compat.check_versions()


@pytest.mark.parametrize(
    'fault',
    [missing_backbone, wrong_channels, channels_first, no_prepbn, ratio_above_0, newer_mmcv],
    ids=lambda fault: fault.__name__,
)
def test_a_message_of_the_page_is_the_one_that_is_raised(monkeypatch, fault):
    with pytest.raises(Exception) as error:
        fault(monkeypatch)
    said = error.value.args[0]
    begin = f'{error.type.__name__}: ' + (repr(said) if error.type is KeyError else said)
    assert any(begin.startswith(message) for message in MESSAGES), begin
