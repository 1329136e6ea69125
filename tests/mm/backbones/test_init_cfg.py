"""``init_cfg`` of backbones as mmengine takes it: by name and by class, one and several."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import PretrainedInit

from slab_det.checkpoints import CheckpointError
from slab_det.mm.backbones.base import SLABBackbone
from tests import tiny_backbones


@pytest.fixture
def saved(tmp_path):
    """A detector's checkpoint with plain and averaged weights, and the plain ones."""
    torch.manual_seed(1)
    weights = tiny_backbones.build('swin').state_dict()
    detector = {f'backbone.{key}': value for key, value in weights.items()}
    averaged = {
        key: value + 1 if value.is_floating_point() else value for key, value in detector.items()
    }
    torch.save(dict(state_dict=detector, state_dict_ema=averaged), tmp_path / 'detector.pth')
    return str(tmp_path / 'detector.pth'), weights


def built(init_cfg):
    torch.manual_seed(0)
    backbone = tiny_backbones.build('swin', init_cfg=init_cfg)
    backbone.init_weights()
    return backbone


@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.PretrainedInit', PretrainedInit])
@pytest.mark.parametrize('make', [dict, ConfigDict, lambda **cfg: [cfg], lambda **cfg: (cfg,)])
def test_a_checkpoint_is_loaded_by_name_and_by_class(saved, kind, make):
    path, weights = saved
    cfg = make(type=kind, checkpoint=path, prefix='backbone.', map_location='cpu')
    found = built(cfg).state_dict()
    assert all(torch.equal(found[key], value) for key, value in weights.items())


def test_what_is_drawn_is_overwritten_by_what_is_loaded(saved):
    path, weights = saved
    drawn = dict(type='Constant', layer='Linear', val=3.0)
    loaded = dict(type=PretrainedInit, checkpoint=path, prefix='backbone.')
    for cfg in ([drawn, loaded], [loaded, drawn]):
        backbone = built(cfg)
        assert torch.equal(backbone.state_dict()['norm0.weight'], weights['norm0.weight'])
        linear = backbone.net.layers[0].blocks[0].mlp.fc1.weight
        assert torch.equal(linear, weights['net.layers.0.blocks.0.mlp.fc1.weight'])
        assert backbone.init_cfg == cfg and backbone.is_init
    assert (built(drawn).net.layers[0].blocks[0].mlp.fc1.weight == 3).all()


def test_later_checkpoints_overwrite_earlier_ones(saved):
    path, weights = saved
    first = dict(type='Pretrained', checkpoint=path, prefix='backbone.', ema=True)
    second = {**first, 'ema': False}
    assert torch.equal(built([first, second]).norm0.weight, weights['norm0.weight'])
    assert torch.equal(built([second, first]).norm0.weight, weights['norm0.weight'] + 1)


def test_the_log_says_which_weights_were_taken(saved, caplog, capsys):
    backbone = tiny_backbones.build('swin')
    report = backbone.load_pretrained(saved[0], prefix='backbone.')
    assert "plain weights of 'state_dict' taken, ema=True takes the averaged" in report.summary()


def test_without_an_init_cfg_the_weights_stay_as_built():
    torch.manual_seed(0)
    expected = tiny_backbones.build('swin').state_dict()
    found = built(None).state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_options_that_are_not_known_are_named(saved):
    with pytest.raises(TypeError, match='resize_grid'):
        built(dict(type='Pretrained', checkpoint=saved[0], resize_grid=True))


def test_a_detector_is_told_with_the_prefix_that_takes_its_backbone(saved, tmp_path):
    with pytest.raises(CheckpointError, match="whole detector: pass prefix='backbone.'"):
        built(dict(type='Pretrained', checkpoint=saved[0]))
    weights = {f'student.backbone.{key}': value for key, value in saved[1].items()}
    torch.save(weights, tmp_path / 'semi.pth')
    with pytest.raises(CheckpointError, match="pass prefix='student.backbone.'"):
        built(dict(type='Pretrained', checkpoint=str(tmp_path / 'semi.pth')))


def test_the_state_dict_is_built_once_while_loading(saved, monkeypatch):
    backbone = tiny_backbones.build('swin')
    calls = []
    whole = SLABBackbone.state_dict
    monkeypatch.setattr(
        SLABBackbone, 'state_dict', lambda self, *a, **k: calls.append(1) or whole(self, *a, **k)
    )
    backbone.load_pretrained(saved[0], prefix='backbone.')
    assert len(calls) == 1
