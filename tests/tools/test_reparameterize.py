"""tools/reparameterize.py as a user runs it: it writes a detector with the same detections."""

import os
import re
import sys

import pytest
import torch
from mmdet.apis import init_detector
from mmengine.config import Config

from slab_det.layers import ChannelAffine, PRepBN, set_ratio
from slab_det.mm.onnx.compare import compare, noise_image, torch_detections
from tests.mm import small_detectors
from tests.scripts import load_script

MMDET_SWIN = dict(
    type='SwinTransformer',
    embed_dims=16,
    depths=(2, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    window_size=4,
    norm_cfg=dict(type='PRepBN'),
)


def run_tool(monkeypatch, *arguments):
    module = load_script('tools/reparameterize.py')
    monkeypatch.setattr(
        sys, 'argv', ['reparameterize', *map(str, arguments), '--shape', '64', '96']
    )
    module.run(module.main, module.parse_args())


def write(folder, name, backbone):
    """Write a config and the checkpoint of a settled RetinaNet; return both and the model."""
    cfg = small_detectors.config('retinanet', backbone)
    cfg.custom_imports = dict(imports=['slab_det'], allow_failed_imports=False)
    model = small_detectors.build(cfg)
    model.bbox_head.retina_cls.weight.data.mul_(0.1)  # scores of 1 would be ties
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    cfg.dump(config)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=3)), checkpoint)
    return config, checkpoint, model


@pytest.mark.parametrize(
    'name, backbone', [('ours', small_detectors.SWIN), ('foreign', MMDET_SWIN)]
)
def test_the_deployed_detector_has_no_norm_left_and_detects_the_same(
    name, backbone, tmp_path, monkeypatch, capsys
):
    config, checkpoint, model = write(tmp_path, name, backbone)
    out = tmp_path / 'new' / 'deploy'
    run_tool(monkeypatch, config, checkpoint, '--out', out)
    printed = capsys.readouterr().out
    assert float(re.search(r'([\d.e-]+) of the largest value', printed)[1]) < 1e-4
    assert sorted(os.listdir(out)) == [f'{name}_deploy.pth', f'{name}_deploy.py']

    deployed = init_detector(
        str(out / f'{name}_deploy.py'), str(out / f'{name}_deploy.pth'), device='cpu'
    )
    kinds = [type(module) for module in deployed.modules()]
    assert PRepBN not in kinds and (ChannelAffine in kinds) == (name == 'foreign')
    image = noise_image(75, 101)
    difference = compare(torch_detections(model, image), torch_detections(deployed, image))
    assert (
        difference.count > 5 and difference.matched == difference.count and difference.extra == 0
    ), difference


def test_bad_input_ends_in_one_sentence_and_writes_nothing(tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'given'
    folder.mkdir()
    config, checkpoint, model = write(folder, 'ours', small_detectors.SWIN)
    set_ratio(model, 0.25)
    torch.save(dict(state_dict=model.state_dict()), folder / 'unfinished.pth')
    plain, plain_checkpoint, _ = write(folder, 'plain', dict(small_detectors.SWIN, norm_cfg='LN'))
    out = tmp_path / 'out'

    def sentence(*arguments):
        with pytest.raises(SystemExit) as stop:
            run_tool(monkeypatch, *arguments)
        text = capsys.readouterr().err.strip()
        assert stop.value.code == 1 and text.startswith('error: ') and len(text.splitlines()) == 1
        return text

    text = sentence(config, folder / 'unfinished.pth', '--out', out)
    assert (
        'ratio is 0.25' in text
        and 'pass --drop-layer-norm' in text
        and 'drop_layer_norm' not in text
    )
    assert 'has no PRepBN or RepBN' in sentence(plain, plain_checkpoint, '--out', out)
    assert 'another model' in sentence(
        config, checkpoint, '--out', out, '--cfg-options', 'model.bbox_head.num_classes=7'
    )
    assert 'not a file' in sentence(config, folder / 'none.pth', '--out', out)
    assert 'is a file, give a folder' in sentence(
        config, checkpoint, '--out', checkpoint / 'deploy'
    )
    assert os.listdir(tmp_path) == ['given']

    run_tool(monkeypatch, config, folder / 'unfinished.pth', '--out', out, '--drop-layer-norm')
    assert 'includes what the LayerNorm branch contributed' in capsys.readouterr().out
    assert Config.fromfile(out / 'ours_deploy.py').model.backbone.deploy is True
