"""What version 0.1 offered stays usable: import names, registry names, configs, tools, checkpoints.

``data/version_0_1.json`` was written from that version: its public names with their parameters
(``name=`` has a default), its tools with their options, and digests of state dicts.
"""

import argparse
import contextlib
import hashlib
import importlib
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from tests import golden
from tests.scripts import load_script
from tests.tiny_backbones import CONFIGS

ROOT = Path(__file__).parents[1]
OLD = json.loads((Path(__file__).parent / 'data/version_0_1.json').read_text(encoding='utf-8'))
NAMES = [(module, name) for module, names in OLD['public'].items() for name in names]


def find(module: str, name: str):
    value = importlib.import_module(module)
    for part in name.split('.'):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize('module, name', NAMES)
def test_public_names_take_the_arguments_of_0_1(module, name):
    value, parameters = find(module, name), OLD['public'][module][name]
    if parameters is None:
        assert issubclass(value, Exception)
        return
    fixed = [one for one in parameters.split(', ') if one and not one.startswith('*')]
    required = [one for one in fixed if '=' not in one]
    if '.' in name:
        required.insert(0, 'self')
        fixed.insert(0, 'self')
    signature = inspect.signature(value)
    signature.bind(*required, **{one.rstrip('=!'): None for one in fixed[len(required) :]})
    by_place = [one.rstrip('=') for one in fixed if not one.endswith('!')]
    variadic = any(one.kind is one.VAR_POSITIONAL for one in signature.parameters.values())
    assert variadic or list(signature.parameters)[: len(by_place)] == by_place


class Norms(nn.Sequential):
    """A linear layer between two PRepBN at ratio 0."""

    def __init__(self, ratio=0.0):
        layers = importlib.import_module('slab_det.layers')
        super().__init__(layers.PRepBN(8), nn.Linear(8, 8), layers.PRepBN(8))
        layers.set_ratio(self, ratio)


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def image():
    return tokens(1, 3, 64, 64)


def backbone(name):
    config = dict(CONFIGS[name])
    return find('slab_det.backbones', config.pop('type'))(**config)


def maps(name):
    out = backbone(name)(image())
    assert len(out) >= 3 and out[0].shape[0] == 1


def attends(module, *rest):
    x = tokens(1, 64, 8)
    assert module(x, 8, 8, *rest).shape == x.shape


def network(name, **arguments):
    model = find('slab_det.models', name)(num_classes=5, **arguments).eval()
    assert model(tokens(2, 3, 64, 64)).shape == (2, 5)
    model.group_matcher()
    return model


def windows():
    layers = importlib.import_module('slab_det.layers')
    x = tokens(1, 36, 8)
    layout = layers.window_layout(1, 6, 6, 4, 2, 'cpu')
    assert isinstance(layout, layers.WindowLayout)
    parts = layers.window_partition(x, layout)
    assert torch.equal(layers.window_merge(parts, layout, 1).view_as(x), x)


def pyramid(kind):
    return find('slab_det.layers', kind)(8, 2, 2, find('slab_det.layers', 'make_norm_layer')('LN'))


def published():
    return golden.published_state_dict(golden.load('slab_swin_t'))


def statistics_of(model):
    return importlib.import_module('slab_det.calibration').norm_sites(model)


def saved(folder):
    model = timm.create_model('slab_swin_tiny', num_classes=0)
    torch.save(dict(state_dict=model.state_dict()), folder / 'saved.pth')
    return model, str(folder / 'saved.pth')


def predicted():
    sample = DetDataSample()
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[1.0, 2.0, 4.0, 8.0]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([0]),
    )
    return sample


def curves(folder):
    """Error curves of the built-in data's own annotations as detections."""
    from pycocotools.coco import COCO

    find('slab_det.datasets', 'make_shapes_dataset')(str(folder / 'shapes'), 1, 2, (64, 96))
    with contextlib.redirect_stdout(None):
        truth = COCO(str(folder / 'shapes/annotations/instances_val.json'))
    found = [
        dict(image_id=one['image_id'], category_id=one['category_id'], bbox=one['bbox'], score=1.0)
        for one in truth.dataset['annotations']
    ]
    return find('slab_det.analysis.coco_errors', 'error_curves')(truth, found)


def mini(detector):
    return Config.fromfile(ROOT / f'configs/mini/{detector}_slab-swin_mini_shapes.py')


def mini_detector():
    config = mini('retinanet')
    return config, MODELS.build(config.model)


def equal(value, expected):
    assert value == expected


def raises(error):
    with pytest.raises(error, match='why'):
        raise error('why')


def padded_batch(set_valid_tokens):
    """The second of two images of 4x4 tokens holds 2x2 only, at 1, beside zeros."""
    layers = importlib.import_module('slab_det.layers')
    x = torch.zeros(2, 4, 4, 8)
    x[0], x[1, :2, :2] = 1, 1
    norm = layers.RepBN(8)
    set_valid_tokens(layers.ValidTokens([(4, 4), (2, 2)], (4, 4)))
    try:
        norm(x.flatten(1, 2))
    finally:
        set_valid_tokens(None)
    mean = norm.bn.running_mean / norm.bn.momentum
    torch.testing.assert_close(mean, torch.ones(8))


#: A use of each public class and function, given what it names and an empty folder.
USES = {
    'slab_det.backbones': {
        'SLABBackbone': lambda it, _: equal(isinstance(backbone('swin'), it), True),
        'SLABCSWinTransformer': lambda it, _: maps('cswin'),
        'SLABPyramidVisionTransformer': lambda it, _: maps('pvt'),
        'SLABPyramidVisionTransformerV2': lambda it, _: maps('pvt_v2'),
        'SLABSwinTransformer': lambda it, _: maps('swin'),
        'SLABVisionTransformer': lambda it, _: equal(len(backbone('deit')(image())), 1),
    },
    'slab_det.necks': {
        'SimpleFPN': lambda it, _: equal(
            [one.shape[-1] for one in it(8, 16)([tokens(1, 8, 4, 4)])], [16, 8, 4, 2, 1]
        ),
    },
    'slab_det.hooks': {
        'BNCalibrationHook': lambda it, _: it(num_images=4, at_val=False),
        'PRepBNHook': lambda it, _: it(schedule='cosine', end=10, by_epoch=False),
        'RandomStateHook': lambda it, _: it(),
        'ReparameterizeHook': lambda it, _: it(drop_layer_norm=True),
        'scheduled_ratio': lambda it, _: equal(it(5, 0, 10), 0.5),
        'ValidTokensHook': lambda it, _: it(),
    },
    'slab_det.layers': {
        'channel_affine': lambda it, _: it(torch.ones(8), torch.zeros(8))(tokens(2, 8)),
        'ChannelAffine': lambda it, _: it(8)(tokens(2, 8)),
        'convert_norms': lambda it, _: equal(it(nn.Sequential(nn.LayerNorm(8)), where='0'), 1),
        'ConvPatchEmbed': lambda it, _: it(
            3, 8, 4, 4, 0, find('slab_det.layers', 'make_norm_layer')('LN')
        )(image()),
        'DepthwiseMlp': lambda it, _: attends(it(8, 16)),
        'effective_shift': lambda it, _: equal(it(8, 8, 8, 4), 0),
        'fold_norm_after_conv': lambda it, _: it(nn.Conv2d(3, 8, 4), Norms()[0].eval()),
        'fold_norm_into_conv': lambda it, _: it(Norms()[0].eval(), nn.Conv2d(8, 8, 2, 2)),
        'fold_norm_into_linear': lambda it, _: it(Norms()[0].eval(), nn.Linear(8, 4)),
        'foldable_affine': lambda it, _: it(Norms()[0].eval()),
        'FoldedNorm': lambda it, _: it(),
        'layer_norm_eps': lambda it, _: equal(it('LN', 1e-5), dict(eps=1e-5)),
        'make_norm_layer': lambda it, _: it(dict(type='PRepBN', momentum=0.2))(8),
        'maps_in_chunks': lambda it, _: equal(it(tokens(1, 9, 8), torch.relu).shape, (1, 8, 9)),
        'PatchEmbed': lambda it, _: it(4, 3, 8)(image()),
        'PatchMerging': lambda it, _: it(8, find('slab_det.layers', 'make_norm_layer')('LN'))(
            tokens(1, 36, 8), 6, 6
        ),
        'PRepBN': lambda it, _: it(8, eps=1e-6)(tokens(2, 8)),
        'prepbn_modules': lambda it, _: equal(len(list(it(Norms()))), 2),
        'ReducedLinearAttention': lambda it, _: attends(pyramid('ReducedLinearAttention')),
        'ReducedSoftmaxAttention': lambda it, _: attends(pyramid('ReducedSoftmaxAttention')),
        'RepBN': lambda it, _: it(8)(tokens(2, 8)),
        'residual_in_chunks': lambda it, _: it(tokens(2, 8), torch.relu),
        'resize_grid': lambda it, _: equal(it(tokens(1, 16, 8), (4, 4), (2, 6)).shape, (1, 12, 8)),
        'runs_in_chunks': lambda it, _: it(nn.Linear(8, 8), tokens(2, 8)),
        'set_ratio': lambda it, _: it(Norms(), 0.5),
        'set_valid_tokens': lambda it, _: padded_batch(it),
        'shift_mask': lambda it, _: equal(it(8, 8, 4, 2, 'cpu').shape, (4, 16, 16)),
        'simplified_linear_attention': lambda it, _: it(
            *(tokens(1, 16, 8) for _ in range(3)), 4, 4, 2, tokens(4, 1, 5, 5)
        ),
        'square_grid': lambda it, _: equal(it(49), (7, 7)),
        'TokenBatchNorm': lambda it, _: it(8)(tokens(2, 8)),
        'valid_tokens': lambda it, _: it([(4, 4)], (4, 4)),
        'ValidTokens': lambda it, _: equal(len(it([(2, 4)], (4, 4)).rows(tokens(1, 16, 8))), 8),
        'window_chunks': lambda it, _: list(it(1, 8, 8, 4, 2, True)),
        'window_layout': lambda it, _: windows(),
        'window_merge': lambda it, _: windows(),
        'window_partition': lambda it, _: windows(),
        'WindowLayout': lambda it, _: windows(),
        'WindowLinearAttention': lambda it, _: it(8, 4, 2),
        'WindowSoftmaxAttention': lambda it, _: it(8, 4, 2).position_bias(),
    },
    'slab_det.models': {
        'CSWinTransformer': lambda it, _: network(
            'CSWinTransformer',
            **dict(embed_dim=8, depths=(1, 2, 1), num_heads=(2, 2, 4), img_size=64),
            **dict(attn_types='LSS', split_sizes=(2, 3, 3)),
        ),
        'FeatureStages': lambda it, _: equal(
            issubclass(find('slab_det.models', 'SwinTransformer'), it), True
        ),
        'PyramidVisionTransformer': lambda it, _: timm.create_model('slab_pvt_tiny', img_size=32),
        'PyramidVisionTransformerV2': lambda it, _: timm.create_model('slab_pvt_v2_b0'),
        'SwinTransformer': lambda it, _: network(
            'SwinTransformer', embed_dim=8, depths=(1, 2), num_heads=(1, 2), attn_types='LS'
        ),
        'VisionTransformer': lambda it, _: network(
            'VisionTransformer', embed_dim=16, depth=2, num_heads=2, img_size=64
        ),
    },
    'slab_det.checkpoints': {
        'checkpoint_filter_fn': lambda it, _: it(
            published(), timm.create_model('slab_swin_tiny', num_classes=0)
        ),
        'CheckpointError': lambda it, _: raises(it),
        'convert_state_dict': lambda it, _: it(
            published(), timm.create_model('slab_swin_tiny', num_classes=0).state_dict()
        ),
        'detect_family': lambda it, _: equal(it(published()).name, 'swin'),
        'Family': lambda it, _: equal(
            it('a', 'A', 'B', bool, dict, lambda w: dict(embed_dim=8, depths=(1,))).describe({}),
            'A with embed_dim 8 and depths (1,)',
        ),
        'load_into': lambda it, folder: equal(it(*saved(folder)).missing, []),
        'LoadReport': lambda it, _: it('a file').summary(),
        'read_checkpoint': lambda it, folder: it(saved(folder)[1]),
        'select_state_dict': lambda it, _: equal(
            list(it(dict(state_dict={'backbone.a': torch.ones(1)}), 'backbone.')), ['a']
        ),
        'stored_grid_sizes': lambda it, _: it(dict(state_dict={})),
        'to_our_names': lambda it, _: it(
            published(), find('slab_det.checkpoints', 'detect_family')(published())
        ),
    },
    'slab_det.calibration': {
        'calibrate_batch_norm': lambda it, _: equal(it(Norms(), [tokens(9, 8)] * 2).batches, 2),
        'CalibrationReport': lambda it, _: it().summary(),
        'check_run': lambda it, _: it(Norms(), [], None, None),
        'frozen_parameters': lambda it, _: it(Norms()).__enter__(),
        'get_statistics': lambda it, _: equal(set(it(statistics_of(Norms()))), {'0', '2'}),
        'modes_kept': lambda it, _: it(Norms()).__enter__(),
        'norm_sites': lambda it, _: equal([one.name for one in it(Norms())], ['0', '2']),
        'NormSite': lambda it, _: it('a', Norms()[0], Norms()[0].repbn.bn).tokens(tokens(2, 3, 8)),
        'put_statistics': lambda it, _: it(
            statistics_of(Norms()), {'0': (torch.ones(8), torch.ones(8))}
        ),
        'run_watched': lambda it, _: equal(
            it([(nn.ReLU(), lambda *_: None)], lambda x: x, [1, 2], torch.zeros(1)), 2
        ),
        'sites_to_calibrate': lambda it, _: it(Norms(), True),
    },
    'slab_det.layer_norm_fit': {
        'fit_repbn_to_layer_norm': lambda it, _: it(Norms(1.0), [tokens(9, 8)]),
    },
    'slab_det.deploy': {
        'is_reparameterized': lambda it, _: equal(it(Norms()), False),
        'reparameterize': lambda it, _: it(backbone('swin').eval(), drop_layer_norm=True),
        'UnfinishedRatioError': lambda it, _: equal('0.5' in str(it(0.5)), True),
    },
    'slab_det.datasets': {
        'DatasetError': lambda it, _: raises(it),
        'draw_scene': lambda it, _: equal(
            it(np.random.RandomState(0), 64, 96).image.shape, (64, 96, 3)
        ),
        'make_shapes_dataset': lambda it, folder: it(str(folder / 'shapes'), 1, 1, (64, 96)),
        'Scene': lambda it, _: equal(
            type(find('slab_det.datasets', 'draw_scene')(np.random.RandomState(0), 64, 96)), it
        ),
    },
    'slab_det.whole_files': {
        'WholeFileBackend': lambda it, folder: it().put(b'all', str(folder / 'file')),
    },
    'slab_det.analysis': {
        'backbone_cost': lambda it, _: equal(it(backbone('swin'), (64, 64)).parameters > 0, True),
        'Cost': lambda it, _: equal(it(parameters=3).multiply_adds, 0),
        'count_costs': lambda it, _: equal(
            it(Norms(), lambda: None)['1'],
            find('slab_det.analysis', 'Cost')(parameters=8 * 8 + 8),
        ),
        'detector_cost': lambda it, _: equal(
            list(it(mini_detector()[1], (64, 64))), ['backbone', 'neck', 'bbox_head']
        ),
        'proposals_of': lambda it, _: it(MODELS.build(mini('mask-rcnn').model)),
    },
    'slab_det.analysis.schedule': {
        'Schedule': lambda it, _: it({}, {}, None, None, 1, 2),
        'training_schedule': lambda it, _: equal(it(*mini_detector(), 8).ratio[0], 1),
    },
    'slab_det.analysis.coco_results': {
        'coco_results': lambda it, _: equal(it(predicted(), 7, [5])[0]['bbox'], [1, 2, 3, 6]),
        'default_category_ids': lambda it, _: equal(it(('a', 'b')), [1, 2]),
    },
    'slab_det.analysis.coco_errors': {
        'draw_errors': lambda it, folder: it(curves(folder), 'a title'),
        'error_curves': lambda it, folder: curves(folder),
        'ErrorCurves': lambda it, folder: equal(
            curves(folder).average_precision().min(), pytest.approx(1)
        ),
    },
    'slab_det.visualization': {
        'class_colour': lambda it, _: equal(len(it(3)), 3),
        'compare': lambda it, _: it(np.zeros((64, 96, 3), np.uint8), [], [], ('a',)),
        'draw_instances': lambda it, _: it(np.zeros((64, 96, 3), np.uint8), [], ('a',)),
        'Instance': lambda it, _: it(0, (1, 2, 3, 4), score=0.5),
    },
    'slab_det.visualization.features': {
        'draw_features': lambda it, _: it(
            np.zeros((64, 96, 3), np.uint8), [tokens(8, 4, 6)], ['a']
        ),
        'feature_colours': lambda it, _: equal(it(tokens(8, 4, 6)).shape, (4, 6, 3)),
        'feature_strength': lambda it, _: equal(it(tokens(8, 4, 6)).shape, (4, 6)),
    },
}


@pytest.mark.parametrize('module, name', [one for one in NAMES if '.' not in one[1]])
def test_public_names_work_under_their_old_path(module, name, tmp_path):
    USES[module][name](find(module, name), tmp_path)


@pytest.mark.parametrize('registry', OLD['registries'])
def test_registry_names_stay(registry):
    module, _, name = registry.rpartition('.')
    assert set(OLD['registries'][registry]) <= set(find(module, name).module_dict)


def test_timm_models_stay():
    assert set(OLD['timm']) <= set(timm.list_models())


def test_config_paths_stay():
    assert [path for path in OLD['configs'] if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize('path', OLD['tools'])
def test_tools_keep_their_options(path, monkeypatch):
    assert (ROOT / path).is_file()
    if OLD['tools'][path] is None:
        return
    parsers = []

    def keep(parser, *_):
        parsers.append(parser)
        sys.exit()

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', keep)
    with pytest.raises(SystemExit):
        load_script(path).parse_args()
    words = {
        word for action in parsers[0]._actions for word in action.option_strings or [action.dest]
    }
    assert set(OLD['tools'][path]) <= words


@pytest.mark.parametrize('path', OLD['state_dicts'])
def test_checkpoints_keep_their_keys_shapes_and_types(path):
    """Of the backbone, by the first four parts of the keys."""
    config = Config.fromfile(ROOT / path)
    config.model.backbone.init_cfg = None
    parts = {}
    for key, value in sorted(MODELS.build(config.model).state_dict().items()):
        if key.startswith('backbone.'):
            line = f'{key} {tuple(value.shape)} {value.dtype}'
            parts.setdefault('.'.join(key.split('.')[:4]), []).append(line)
    digests = {
        part: hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:8]
        for part, lines in parts.items()
    }
    assert digests == OLD['state_dicts'][path]
