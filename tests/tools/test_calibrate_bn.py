"""tools/calibrate_bn.py: what it writes, what it says, and what it refuses."""

import shutil
from pathlib import Path

import cv2
import pytest
import torch

from slab_det.cli import check_model, load_config, run
from slab_det.mm.datasets import make_shapes_dataset
from slab_det.statistics.calibration import norm_sites
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/mini/retinanet_slab-swin_mini_shapes.py')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp('files')
    make_shapes_dataset(str(root / 'shapes'), 3, 1, (64, 80))
    torch.manual_seed(0)
    model = check_model(load_config(CONFIG), CONFIG)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=7)), root / 'good.pth')
    return root


@pytest.fixture
def call(files, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(files / 'shapes'))
    monkeypatch.chdir(tmp_path)
    tool = load_script('tools/calibrate_bn.py')

    def run_tool(*words):
        monkeypatch.setattr('sys.argv', ['calibrate_bn.py', *map(str, words)])
        run(tool.main, tool.parse_args())

    return run_tool


@torch.no_grad()
def tokens_of_the_first_norm(model, images):
    """What the first norm gets of the images, read and scaled without mmdet."""
    tokens = []
    norm_sites(model)[0].entry.register_forward_pre_hook(
        lambda _, x: tokens.append(x[0].flatten(0, -2))
    )
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    for path in images:
        image = cv2.resize(cv2.imread(str(path)), (160, 160), interpolation=cv2.INTER_LINEAR)
        pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()
        model.extract_feat(((pixels - mean) / std)[None])
    return torch.cat(tokens).double()


def test_writes_the_checkpoint_with_other_statistics(call, files, capsys):
    call(
        CONFIG,
        files / 'good.pth',
        '--out',
        'new/calibrated.pth',
        '--num-images',
        '3',
        '--num-workers',
        '0',
        '--device',
        'cpu',
    )
    words = capsys.readouterr().out
    assert 'BatchNorm calibrated over 3 images' in words and 'largest change of a variance' in words
    assert 'calibration, pass 1: 3 of 3\n' in words
    assert words.rstrip().splitlines()[-1] == (
        'wrote new/calibrated.pth for testing, deployment and load_from, not for --resume: it does '
        'not hold the state of the optimizer'
    )
    old = torch.load(files / 'good.pth', weights_only=True)
    new = torch.load('new/calibrated.pth', weights_only=True)
    assert new['meta'] == dict(epoch=7) and old['state_dict'].keys() == new['state_dict'].keys()
    changed = {
        key
        for key, value in old['state_dict'].items()
        if not torch.equal(value, new['state_dict'][key])
    }
    assert changed == {
        key for key in old['state_dict'] if key.endswith(('running_mean', 'running_var'))
    }

    model = check_model(load_config(CONFIG), CONFIG).train()
    model.load_state_dict(new['state_dict'])
    bn = norm_sites(model)[0].bn
    found = bn.running_mean.clone(), bn.running_var.clone()
    tokens = tokens_of_the_first_norm(model, (files / 'shapes/train').iterdir())
    torch.testing.assert_close(found[0], tokens.mean(0).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], tokens.var(0).float(), rtol=1e-4, atol=1e-5)
    assert [path.name for path in Path('new').iterdir()] == ['calibrated.pth']


@pytest.mark.parametrize(
    'words, message',
    [
        (['gone.pth'], 'checkpoint gone.pth is not a file'),
        (['GOOD', '--out', '.'], '--out . is a folder'),
        (
            ['GOOD', '--cfg-options', 'train_dataloader.dataset.data_root=no'],
            'data_root no is not a folder',
        ),
        (
            ['GOOD', '--cfg-options', 'model.neck.out_channels=32'],
            'is a checkpoint of another model',
        ),
        (
            ['GOOD', '--cfg-options', 'model.backbone.norm_eval=True'],
            'frozen (norm_eval or frozen_stages): leave them '
            'so, or calibrate them knowingly with include_frozen=True (--include-frozen of',
        ),
        (
            ['GOOD', '--cfg-options', 'test_dataloader=None', 'val_dataloader=None'],
            'test_dataloader is NoneType and not a config, so that the images to calibrate with '
            'cannot be found: make it one',
        ),
    ],
)
def test_refuses_in_one_sentence_and_writes_nothing(call, files, tmp_path, capsys, words, message):
    words = [files / 'good.pth' if word == 'GOOD' else word for word in words]
    if '--out' not in words:
        words += ['--out', 'out.pth']
    with pytest.raises(SystemExit) as end:
        call(CONFIG, *words)
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.startswith('error: ') and error.count('\n') == 1
    assert message in error and not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', ['the same words', 'relative', 'link', 'link as input', 'config'])
def test_refuses_to_replace_what_it_reads(call, files, tmp_path, capsys, kind):
    source = tmp_path / 'epoch_12.pth'
    shutil.copy(files / 'good.pth', source)
    (tmp_path / 'link.pth').symlink_to(source)
    (tmp_path / 'own.py').write_text(f'_base_ = {CONFIG!r}')
    config, checkpoint, out, name = {
        'the same words': (CONFIG, source, source, 'checkpoint'),
        'relative': (CONFIG, source, '../' + tmp_path.name + '/epoch_12.pth', 'checkpoint'),
        'link': (CONFIG, source, 'link.pth', 'checkpoint'),
        'link as input': (CONFIG, 'link.pth', 'epoch_12.pth', 'checkpoint'),
        'config': (tmp_path / 'own.py', source, 'own.py', 'config'),
    }[kind]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as end:
        call(config, checkpoint, '--out', out)
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.count('\n') == 1
    assert (
        error.startswith(f'error: --out {out} is the {name} ')
        and 'give the name of a new file' in error
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (tmp_path / 'link.pth').is_symlink()


def test_says_which_of_two_models_it_calibrated(capsys):
    tool = load_script('tools/calibrate_bn.py')
    tool.averaged_too(dict(state_dict={}))
    assert capsys.readouterr().out == ''
    tool.averaged_too(dict(state_dict={}, ema_state_dict={}))
    assert (
        'holds an averaged model (EMAHook): its statistics are calibrated'
        in capsys.readouterr().out
    )
