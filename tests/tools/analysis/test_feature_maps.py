from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from slab_det.cli import InputError, check_fit
from tests.scripts import load_script

ROOT = Path(__file__).parents[3]
MINI = str(ROOT / 'configs/mini/retinanet_slab-swin_mini_shapes.py')


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/analysis/feature_maps.py')


@pytest.fixture
def image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('a.png', np.random.RandomState(0).randint(0, 255, (70, 90, 3), np.uint8))
    return 'a.png'


def test_a_picture_of_every_level(tool, image, capsys):
    tool.main(tool.parse_args([image, MINI, '--out', 'o/f.png', '--neck']))
    assert '4 levels of the neck in o/f.png' in capsys.readouterr().out
    assert cv2.imread('o/f.png').shape[1] > 1000


def test_weights_of_the_checkpoint_and_maps_without_padding(tool, image):
    from mmdet.registry import MODELS
    from mmengine.config import Config

    cfg = Config.fromfile(MINI)
    cfg.test_dataloader.dataset.pipeline[1].scale = (100, 75)
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        model = registry.build(cfg.model)
    picture, features, strides = tool.extract(model, cfg, image, False)
    # 75 x 100 pixels are padded to 96 x 128, of which 75 / 4 and 100 / 4 are the image.
    assert picture.shape == (75, 100, 3) and strides == [4, 8, 16, 32]
    assert features[0].shape == (32, 19, 25)
    with torch.no_grad():
        for value in model.backbone.parameters():
            value.fill_(float('nan'))
    torch.save(dict(state_dict=model.state_dict()), 'w.pth')
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        other = registry.build(cfg.model)
    check_fit('w.pth', other, 'checkpoint')
    assert all(torch.isnan(value).all() for value in other.backbone.parameters())


@pytest.mark.parametrize(
    'options, words',
    [
        (['b.png', MINI], 'IMAGE b.png is not an image'),
        (['text.png', MINI], 'IMAGE text.png is not an image'),
        (['a.png', MINI, 'none.pth'], 'checkpoint none.pth is not a file'),
        (['a.png', MINI, '--cfg-options', 'test_dataloader=None'], 'has no test_dataloader'),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tool, image, tmp_path, options, words):
    Path('text.png').write_text('no image')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(InputError, match=words):
        tool.main(tool.parse_args(options))
    assert sorted(tmp_path.rglob('*')) == before
