from pathlib import Path

import pytest
from mmengine.config import Config

from slab_det.cli import run
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/mini/mask-rcnn_slab-swin_mini_shapes.py')


@pytest.fixture
def call(monkeypatch):
    tool = load_script('tools/print_config.py')

    def run_tool(*words):
        monkeypatch.setattr('sys.argv', ['print_config.py', *words])
        run(tool.main, tool.parse_args())

    return run_tool


def test_prints_and_writes_the_whole_config(call, capsys, tmp_path):
    path = str(tmp_path / 'whole.py')
    call(CONFIG, '--cfg-options', 'model.backbone.attn_types=SSSS', '--save-path', path)
    expected = Config.fromfile(CONFIG)
    expected.model.backbone.attn_types = 'SSSS'
    assert Config.fromfile(path).to_dict() == expected.to_dict()
    printed = tmp_path / 'printed.py'
    printed.write_text(capsys.readouterr().out)
    assert Config.fromfile(printed).to_dict() == expected.to_dict()


def test_refuses_places_and_formats_that_cannot_be_written(call, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        call(CONFIG, '--save-path', '/dev/null/folder/x.py')
    assert end.value.code == 1 and 'cannot be written' in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        call(CONFIG, '--save-path', 'x.txt')
    assert end.value.code == 2
