import pytest
import timm
import torch

from slab_det.checkpoints import CheckpointError
from tests import golden


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp('published') / 'slab_pvt_v2_b0.pth'
    weights = golden.published_state_dict(golden.load('slab_pvt_v2_b0'))
    torch.save({'model': weights, 'epoch': 300}, path)
    return weights, dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))


def test_timm_loads_published_weights_with_their_classifier(published):
    weights, arguments = published
    model = timm.create_model('slab_pvt_v2_b0', **arguments)
    assert torch.equal(model.head.fc.weight, weights['head.weight'])
    assert torch.equal(model.layers[1].downsample.proj.weight, weights['patch_embed2.proj.weight'])


def test_timm_fits_published_weights_to_other_classes_and_channels(published):
    weights, arguments = published
    model = timm.create_model('slab_pvt_v2_b0', num_classes=7, in_chans=1, **arguments)
    assert model.head.fc.out_features == 7
    # timm sums the colours.
    torch.testing.assert_close(
        model.patch_embed.proj.weight, weights['patch_embed1.proj.weight'].sum(1, keepdim=True)
    )


def test_timm_extracts_features_from_published_weights(published):
    weights, arguments = published
    model = timm.create_model('slab_pvt_v2_b0', features_only=True, out_indices=(0, 1), **arguments)
    maps = model.eval()(golden.images())
    data = golden.load('slab_pvt_v2_b0')
    tokens = [m.flatten(2).transpose(1, 2) for m in maps]
    assert golden.worst_error(data, 'eval/224x224', tokens) < golden.TOLERANCE


def test_another_size_is_refused(published):
    with pytest.raises(
        CheckpointError, match='has 32 channels in the checkpoint, but 64 in the model'
    ):
        timm.create_model('slab_pvt_v2_b1', **published[1])
