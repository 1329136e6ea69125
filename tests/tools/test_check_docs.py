import os
from pathlib import Path

import pytest

from slab_det.cli import InputError
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/check_docs.py')


def test_the_documentation_of_the_project_parses(tool, capsys):
    tool.main(tool.parse_args([]))
    assert 'all parse' in capsys.readouterr().out


def test_the_index_leads_to_every_page():
    index = (ROOT / 'docs/README.md').read_text()
    pages = {path.stem for path in (ROOT / 'docs').glob('*.md')} - {'README', 'index'}
    assert {name for name in pages if f']({name}.md)' not in index} == set()
    assert 'docs/README.md' in (ROOT / 'README.md').read_text()


@pytest.mark.slow
def test_the_commands_that_are_marked_run(tool, capsys):
    tool.main(tool.parse_args(['--run']))
    assert 'were run' in capsys.readouterr().out


def test_marked_commands_run_in_a_folder_of_their_own(tool, tmp_path, capsys):
    path = tmp_path / 'page.md'
    path.write_text(
        '<!-- check: run -->\n```bash\npython tools/make_dataset.py data/shapes\n```\n'
        '<!-- check: parse as above -->\n'
        '```bash\npython tools/make_dataset.py data/other\n```\n'
    )
    before = os.getcwd()
    tool.main(tool.parse_args([str(path), '--run']))
    out = capsys.readouterr().out
    assert '2 commands: all parse, 1 were run' in out and os.getcwd() == before
    assert [one.name for one in tmp_path.iterdir()] == ['page.md']


def test_a_command_that_fails_is_named_and_its_output_shown(tool, tmp_path, capsys):
    path = tmp_path / 'page.md'
    path.write_text(
        '<!-- check: run -->\n```bash\n'
        'python tools/print_config.py configs/mini/retinanet_slab-swin_mini_shapes.py\n'
        'python tools/print_config.py nowhere.py\n```\n'
    )
    with pytest.raises(tool.DocError, match=r'page.md:4: .*InputError: config nowhere.py is not'):
        tool.main(tool.parse_args([str(path), '--run']))


def test_faults_are_listed(tool, tmp_path, capsys):
    path = tmp_path / 'page.md'
    path.write_text('[a](none.md)\n<!-- check: run -->\n```bash\npython tools/none.py\n```\n')
    with pytest.raises(InputError, match='2 faults'):
        tool.main(tool.parse_args([str(path)]))
    err = capsys.readouterr().err
    assert 'the link none.md leads nowhere' in err and 'tools/none.py does not exist' in err
    with pytest.raises(InputError, match='PAGE .*gone.md is not a file'):
        tool.main(tool.parse_args([str(tmp_path / 'gone.md')]))
