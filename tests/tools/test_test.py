"""Bad input to tools/test.py, and what its options ask of the Runner."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from slab_det.cli import check_model, load_config, run
from slab_det.mm.datasets import make_shapes_dataset
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/mini/mask-rcnn_slab-swin_mini_shapes.py')


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/test.py')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A folder with data and a checkpoint of the mini config's model."""
    root = tmp_path_factory.mktemp('files')
    make_shapes_dataset(str(root / 'shapes'), 2, 1, (64, 80))
    model = check_model(load_config(CONFIG), CONFIG)
    torch.save(dict(state_dict=model.state_dict()), root / 'good.pth')
    return root


@pytest.fixture
def call(tool, files, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(files / 'shapes'))
    monkeypatch.chdir(tmp_path)

    def run_tool(*words):
        monkeypatch.setattr('sys.argv', ['test.py', *map(str, words)])
        run(tool.main, tool.parse_args())

    return run_tool


@pytest.fixture
def refused(call, tmp_path, capsys):

    def run_tool(*words):
        before = sorted(tmp_path.rglob('*'))
        with pytest.raises(SystemExit) as end:
            call(*words)
        assert end.value.code == 1
        assert sorted(tmp_path.rglob('*')) == before
        error = capsys.readouterr().err
        assert error.startswith('error: ') and error.count('\n') == 1
        return error

    return run_tool


class Stub:
    """A Runner that only keeps its config."""

    def __init__(self):
        self.model = torch.nn.Identity()
        self.test_evaluator = type('Evaluator', (), dict(metrics=[]))()
        self.tested = 0

    def test(self):
        self.tested += 1


@pytest.fixture
def runner(monkeypatch):
    stub = Stub()

    def from_cfg(cfg):
        stub.cfg = cfg
        return stub

    monkeypatch.setattr(Runner, 'from_cfg', from_cfg)
    return stub


def test_the_checkpoint_must_be_there_whole_and_of_this_model(refused, files, tmp_path):
    assert 'checkpoint gone.pth is not a file' in refused(CONFIG, 'gone.pth')
    Path('torn.pth').write_bytes((files / 'good.pth').read_bytes()[:100000])
    assert 'checkpoint torn.pth is empty or truncated (100000 bytes)' in refused(CONFIG, 'torn.pth')
    good = files / 'good.pth'
    wider = ['--cfg-options', 'model.neck.out_channels=96', 'model.rpn_head.in_channels=96']
    assert 'is a checkpoint of another model: ' in refused(CONFIG, good, *wider)
    torch.save(dict(state_dict={'conv1.weight': torch.ones(3)}), 'resnet.pth')
    assert 'checkpoint resnet.pth is a checkpoint of another model: no backbone.' in refused(
        CONFIG, 'resnet.pth'
    )


def test_the_data_must_be_there(refused, files):
    option = 'test_dataloader.dataset.data_root'
    words = refused(CONFIG, files / 'good.pth', '--cfg-options', f'{option}=nowhere')
    assert f'{option} nowhere is not a folder' in words
    option = 'test_evaluator.ann_file'
    words = refused(CONFIG, files / 'good.pth', '--cfg-options', f'{option}=nothing.json')
    assert f'{option} nothing.json is not a file' in words


def test_out_must_be_a_pickle(call, files, capsys):
    with pytest.raises(SystemExit) as end:
        call(CONFIG, files / 'good.pth', '--out', 'predictions.json')
    assert end.value.code == 2 and "got 'predictions.json'" in capsys.readouterr().err


def test_augmentation_is_refused_for_masks(refused, files):
    assert '--tta: mmdet averages boxes only' in refused(CONFIG, files / 'good.pth', '--tta')


def test_options_reach_the_runner(call, runner, files):
    call(
        CONFIG,
        files / 'good.pth',
        '--work-dir',
        'work',
        '--out',
        'p.pkl',
        '--show-dir',
        'drawn',
        '--wait-time',
        '0.5',
        '--cfg-options',
        'test_dataloader.batch_size=3',
    )
    cfg = runner.cfg
    assert runner.tested == 1
    assert (
        cfg.load_from == str(files / 'good.pth') and cfg.resume is False and cfg.work_dir == 'work'
    )
    assert cfg.test_dataloader.batch_size == 3
    hook = cfg.default_hooks.visualization
    assert (
        hook.draw is True
        and hook.show is False
        and hook.test_out_dir == 'drawn'
        and hook.wait_time == 0.5
    )
    (metric,) = runner.test_evaluator.metrics
    assert metric.out_file_path == 'p.pkl'


def test_drawing_needs_the_hook(refused, files):
    words = refused(
        CONFIG,
        files / 'good.pth',
        '--show-dir',
        'x',
        '--cfg-options',
        'default_hooks.visualization=None',
    )
    assert '--show-dir need' in words


def test_augmentation_wraps_model_and_pipeline(tool):
    cfg = load_config(CONFIG)
    model, pipeline = cfg.model, cfg.test_dataloader.dataset.pipeline
    names = [step.type for step in pipeline]
    tool.test_with_augmentation(cfg, model=None)
    assert cfg.model.type == 'DetTTAModel' and cfg.model.module == model
    last = cfg.test_dataloader.dataset.pipeline[-1]
    assert [step.type for step in cfg.test_dataloader.dataset.pipeline] == names[:-1] + [
        'TestTimeAug'
    ]
    flips, (pack,) = last.transforms
    assert sorted(flip.prob for flip in flips) == [0, 1] and 'flip_direction' in pack.meta_keys
