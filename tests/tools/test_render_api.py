import pytest

from slab_det.cli import InputError
from slab_det.mm.hooks import PRepBNHook
from tests.scripts import load_script


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/render_api.py')


def test_docstrings_become_markdown(tool):
    text = """Short with :class:`~a.b.Name` and ``code``.

    A second paragraph.

    Args:
        first: what it is,
            over two lines.
        second, third: both.

    Returns:
        A map ``(N, C)``.

    Raises:
        ValueError: when.
    """
    import inspect

    assert tool.markdown(inspect.cleandoc(text)).splitlines() == [
        'Short with `Name` and `code`.',
        '',
        'A second paragraph.',
        '',
        '**Args:**',
        '',
        '- `first`: what it is,',
        '  over two lines.',
        '- `second`, `third`: both.',
        '',
        '**Returns:**',
        '',
        'A map `(N, C)`.',
        '',
        '**Raises:**',
        '',
        '- `ValueError`: when.',
    ]


def test_signatures_show_defaults_and_no_annotations(tool):
    call = tool.signature('PRepBNHook', PRepBNHook)
    assert call.startswith("PRepBNHook(schedule='linear', start_ratio=None, end_ratio=0.0")
    assert '->' not in call and 'Union' not in call


def test_the_page_lists_the_public_names(tool):
    page = tool.render()
    for name in (
        'SLABSwinTransformer',
        'SimpleFPN',
        'PRepBNHook',
        'PRepBN',
        'convert_norms',
        'reparameterize',
        'make_shapes_dataset',
        'training_schedule',
    ):
        assert page.count(f'\n### {name}\n') == 1
    assert ' at 0x' not in page and ':class:' not in page and '``' not in page.replace('```', '')


def test_check_writes_nothing_and_notices_an_old_page(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'render', lambda: 'text')
    page = tmp_path / 'api.md'
    with pytest.raises(InputError, match='is out of date: run python tools/render_api.py'):
        tool.main(tool.parse_args(['--out', str(page), '--check']))
    assert not page.exists()
    tool.main(tool.parse_args(['--out', str(page)]))
    tool.main(tool.parse_args(['--out', str(page), '--check']))
    assert page.read_text() == 'text'


@pytest.mark.slow
def test_the_page_of_the_project_is_up_to_date(tool):
    tool.main(tool.parse_args(['--check']))
