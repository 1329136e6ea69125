import os
import re

import pytest
import torch
from mmengine.config import Config
from torch import nn

from slab_det.cli import InputError, check_checkpoint, check_fit, check_resume, read_checkpoint


class Detector(nn.Module):
    def __init__(self, width=4, layers=2):
        super().__init__()
        self.backbone = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])
        self.head = nn.Linear(width, 3)
        self.register_buffer('counted', torch.zeros(()))


def save(path, model, **more):
    torch.save(dict(state_dict=model.state_dict(), **more), path)
    return str(path)


def refused(function, *args, match, **kwargs):
    with pytest.raises(InputError, match=match) as error:
        function(*args, **kwargs)
    assert '\n' not in str(error.value)


@pytest.fixture
def whole(tmp_path):
    return save(tmp_path / 'epoch_1.pth', Detector(), optimizer={}, message_hub={})


def test_a_missing_checkpoint_is_named(tmp_path):
    refused(
        check_checkpoint,
        str(tmp_path / 'x.pth'),
        'checkpoint',
        match='checkpoint .*x.pth is not a file',
    )
    refused(check_checkpoint, str(tmp_path), 'checkpoint', match='is not a file')


@pytest.mark.parametrize('kept', [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(whole, kept):
    with open(whole, 'rb') as file:
        content = file.read()
    with open(whole, 'wb') as file:
        file.write(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    refused(check_checkpoint, whole, 'checkpoint', match='empty or truncated')


def test_other_files_are_no_checkpoints(tmp_path):
    path = tmp_path / 'notes.pth'
    path.write_text('not a checkpoint')
    refused(read_checkpoint, str(path), '--resume', match='--resume .*notes.pth')


def test_legacy_checkpoints_are_read(tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(dict(a=torch.ones(2)), path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(str(path), 'checkpoint')['a'].tolist() == [1, 1]
    path.write_bytes(path.read_bytes()[:-5])
    refused(read_checkpoint, str(path), 'checkpoint', match='old.pth')


def test_addresses_are_left_to_mmengine():
    check_checkpoint('https://example.org/x.pth', 'checkpoint')
    check_fit('https://example.org/x.pth', Detector(), 'checkpoint')


def test_the_right_weights_fit(whole, tmp_path):
    check_fit(whole, Detector(), 'checkpoint')
    wrapped = {
        f'module.{key}': value for key, value in Detector().state_dict().items() if key != 'counted'
    }
    torch.save(wrapped, tmp_path / 'bare.pth')
    check_fit(str(tmp_path / 'bare.pth'), Detector(), 'checkpoint')


def test_another_models_weights_are_refused(whole):
    refused(
        check_fit,
        whole,
        Detector(layers=3),
        'checkpoint',
        match=re.escape('another model: no backbone.2.weight (2 such faults)'),
    )
    refused(
        check_fit,
        whole,
        Detector(width=8),
        'checkpoint',
        match='size mismatch for backbone.0.weight.* .5 such faults',
    )
    refused(check_fit, whole, nn.Linear(1, 1), 'checkpoint', match='no weight')


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'empty.pth')
    refused(
        check_fit,
        str(tmp_path / 'empty.pth'),
        Detector(),
        'checkpoint',
        match='holds no state_dict',
    )


def test_fine_tuning_may_start_from_another_head_but_not_from_another_backbone(tmp_path):
    start = Detector()
    start.head = nn.Linear(4, 80)
    path = save(tmp_path / 'coco.pth', start)
    model = Detector()
    check_fit(path, model, 'load_from', whole=False)
    other = dict(
        state_dict={'backbone.stem.weight': torch.ones(1), 'head.weight': torch.ones(3, 4)}
    )
    torch.save(other, tmp_path / 'other.pth')
    refused(
        check_fit,
        str(tmp_path / 'other.pth'),
        model,
        'load_from',
        whole=False,
        match='no backbone.0.weight',
    )
    refused(
        check_fit,
        path,
        Detector(width=8),
        'load_from',
        whole=False,
        match='size mismatch for backbone.0',
    )


def test_resume_takes_the_last_checkpoint(whole, tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from=None))
    check_resume(cfg, Detector())  # nothing to resume yet
    (tmp_path / 'last_checkpoint').write_text(whole)
    check_resume(cfg, Detector())
    with open(whole, 'r+b') as file:
        file.truncate(10)
    refused(
        check_resume,
        cfg,
        Detector(),
        match='last_checkpoint names .*epoch_1.pth is empty or truncated',
    )


@pytest.mark.parametrize(
    'name, fault', [('gone.pth', 'names gone.pth, which is not a file'), ('', 'is empty')]
)
def test_a_note_of_the_last_checkpoint_that_names_no_file_is_refused_with_what_is_there(
    name, fault, tmp_path
):
    (tmp_path / 'last_checkpoint').write_text(name)
    cfg = Config(dict(work_dir=str(tmp_path), load_from=None))
    sentence = (
        f'--resume: {tmp_path}/last_checkpoint {fault}: name the checkpoint to go on from, '
        '--resume '
    )
    refused(check_resume, cfg, Detector(), match=f'^{re.escape(sentence)}CHECKPOINT$')
    for age, file in enumerate(['best_coco_bbox_mAP_iter_12.pth', 'iter_12.pth', 'iter_8.pth']):
        (tmp_path / file).touch()
        os.utime(tmp_path / file, (1e9 - age, 1e9 - age))
    refused(check_resume, cfg, Detector(), match=f'^{re.escape(sentence)}{tmp_path}/iter_12.pth$')


def test_resume_needs_more_than_weights(tmp_path):
    path = save(tmp_path / 'weights.pth', Detector())
    refused(
        check_resume,
        Config(dict(work_dir=str(tmp_path), load_from=path)),
        Detector(),
        match='no optimizer and no message_hub: .* load_from=',
    )


def test_a_backbone_in_the_place_of_a_detector_is_told(tmp_path):
    weights = {'layers.0.blocks.0.attn.qkv.weight': torch.ones(1)}
    torch.save(dict(state_dict=weights), tmp_path / 'swin.pth')
    refused(
        check_fit,
        str(tmp_path / 'swin.pth'),
        Detector(),
        'load_from',
        whole=False,
        match='is a Swin Transformer alone and not a detector: .*init_cfg of model.backbone',
    )


def test_whole_models_and_foreign_objects_are_refused_before_mmengine_meets_them(tmp_path):
    torch.save(Detector(), tmp_path / 'model.pth')
    refused(
        read_checkpoint, str(tmp_path / 'model.pth'), 'load_from', match='load_from .*model.pth'
    )
    torch.save(dict(a=Detector), tmp_path / 'class.pth')
    refused(read_checkpoint, str(tmp_path / 'class.pth'), 'load_from', match='running code from it')
