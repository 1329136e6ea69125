import os
import stat

import pytest
import torch

from slab_det.checkpoints import CheckpointError, load_into, read_checkpoint, stored_grid_sizes
from slab_det.errors import InputError
from slab_det.models import PyramidVisionTransformer, SwinTransformer
from slab_det.models.conversion import convert_checkpoint, save_checkpoint
from tests import golden
from tests.networks import settle

PVT = dict(
    embed_dims=(8, 16),
    depths=(1, 1),
    num_heads=(1, 2),
    mlp_ratios=(2, 2),
    attn_types='LS',
    img_size=32,
    num_classes=5,
)


@pytest.fixture
def small(tmp_path):
    torch.manual_seed(0)
    model = settle(PyramidVisionTransformer(**PVT))
    torch.save(
        {'model': {f'module.{key}': value for key, value in model.state_dict().items()}},
        tmp_path / 'small.pth',
    )
    return model, str(tmp_path / 'small.pth')


@pytest.mark.parametrize(
    'file, family, arch',
    [
        ('slab_swin_t', 'swin', 'tiny'),
        ('swin_t_prepbn', 'swin', 'tiny'),
        ('slab_pvt_t', 'pvt', 'tiny'),
        ('pvt_t_prepbn', 'pvt', 'tiny'),
        ('slab_pvt_v2_b0', 'pvt_v2', 'b0'),
        ('slab_deit_t', 'deit', 'tiny'),
        ('deit_s_prepbn', 'deit', 'small'),
        ('slab_cswin_t', 'cswin', 'tiny'),
    ],
)
def test_published_files_are_recognised_and_leave_nothing_over(file, family, arch, tmp_path):
    path = str(tmp_path / 'published.pth')
    torch.save({'model': golden.published_state_dict(golden.load(file))}, path)
    found = convert_checkpoint(path)
    assert (found.family.name, found.arch) == (family, arch)
    assert f"arch='{arch}'" in found.usage()
    assert not found.report.missing and not found.report.resized
    kept = [
        name
        for name in found.report.ignored
        if not name.endswith(('relative_position_index', 'attn_mask', 'cls_token', '.scale'))
    ]
    assert kept == []


def test_what_is_written_loads_as_it_was(small, tmp_path):
    model, path = small
    target = str(tmp_path / 'out.pth')
    save_checkpoint(convert_checkpoint(path), target)
    new = PyramidVisionTransformer(**PVT)
    load_into(new, target)
    for key, value in model.state_dict().items():
        assert torch.equal(new.state_dict()[key], value), key
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o666 & ~mask


def test_classifier_can_be_left_out(small):
    found = convert_checkpoint(small[1], drop_classifier=True)
    assert not any(name.startswith('head.') for name in found.weights)
    assert found.arguments['num_classes'] == 0 and not found.report.missing


def test_grids_are_resized_to_images_of_any_shape_and_back(small, tmp_path):
    model, path = small
    wide, again = str(tmp_path / 'wide.pth'), str(tmp_path / 'again.pth')
    found = convert_checkpoint(path, image_size=(32, 128))
    assert found.report.resized and found.arguments['img_size'] == (32, 128)
    save_checkpoint(found, wide)
    # 8 x 32 tokens are as many as 16 x 16: only the file tells them apart.
    assert stored_grid_sizes(read_checkpoint(wide))['layers.0.absolute_pos_embed'] == (8, 32)
    kept = convert_checkpoint(wide)
    assert kept.arguments['img_size'] == (32, 128) and not kept.report.resized
    save_checkpoint(convert_checkpoint(wide, image_size=(64, 64)), again)
    grid = found.weights['layers.0.absolute_pos_embed'].view(1, 8, 32, 8).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (16, 16), mode='bilinear')
    torch.testing.assert_close(
        read_checkpoint(again)['state_dict']['layers.0.absolute_pos_embed'],
        expected.flatten(2).transpose(1, 2),
    )


def test_a_family_is_refused_by_name(small):
    with pytest.raises(
        CheckpointError,
        match='small.pth is a Pyramid Vision Transformer, not of the '
        "family 'swin'; pass family pvt or auto",
    ):
        convert_checkpoint(small[1], family='swin')
    assert convert_checkpoint(small[1], family='pvt').family.name == 'pvt'


def test_grids_that_do_not_depend_on_the_image_are_not_resized(tmp_path):
    path = str(tmp_path / 'swin.pth')
    torch.save(SwinTransformer(8, (1,), (1,), 'S').state_dict(), path)
    with pytest.raises(
        CheckpointError, match='has no positional grids that depend on the image size'
    ):
        convert_checkpoint(path, image_size=(64, 64))


def test_reparameterized_files_are_refused(small, tmp_path):
    weights = {key: value for key, value in small[0].state_dict().items() if '.norm' not in key}
    torch.save(weights, tmp_path / 'deployed.pth')
    with pytest.raises(CheckpointError, match='is re-parameterized and already has the names'):
        convert_checkpoint(str(tmp_path / 'deployed.pth'))


def test_a_branch_that_the_source_lacks_is_missing_not_made_up(small, tmp_path):
    weights = small[0].state_dict()
    ln = 'layers.1.blocks.0.attn.norm.'
    for key in [key for key in weights if key.startswith(ln)]:
        del weights[key]
    weights.update({f'{ln}weight': torch.ones(16), f'{ln}bias': torch.zeros(16)})
    torch.save(weights, tmp_path / 'mixed.pth')
    found = convert_checkpoint(str(tmp_path / 'mixed.pth'))
    assert {f'{ln}repbn.eta', f'{ln}repbn.bn.running_mean'} <= set(found.report.missing)
    assert not any(value.is_meta for value in found.weights.values())


def test_nothing_is_left_where_writing_fails(small, tmp_path, monkeypatch):
    found = convert_checkpoint(small[1])
    with pytest.raises(InputError, match='lies in a folder that does not exist; make'):
        save_checkpoint(found, str(tmp_path / 'none' / 'out.pth'))
    folder = tmp_path / 'out'
    folder.mkdir()

    def fail(*args):
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(InputError, match='DST .*out.pth cannot be written: disk full'):
        save_checkpoint(found, str(folder / 'out.pth'))
    assert list(folder.iterdir()) == []
