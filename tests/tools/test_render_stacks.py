"""The table that tools/docs/render_stacks.py makes of the records of .ci/run."""

import pytest

from tests.scripts import caller, load_script

SUITE = (
    '<testsuites><testsuite name="pytest" errors="{errors}" failures="{failures}" skipped="2" '
    'tests="20" time="{time}"></testsuite></testsuites>'
)


@pytest.fixture
def render(monkeypatch, capsys):
    return caller(load_script('tools/docs/render_stacks.py'), monkeypatch, capsys)


@pytest.fixture
def records(tmp_path):
    for name, errors, failures, time in (
        ('onedl-training', 0, 0, 600.0),
        ('openmmlab-all', 0, 0, 1234.5),
        ('onedl-quick', 1, 3, 29.0),
    ):
        text = SUITE.format(errors=errors, failures=failures, time=time)
        (tmp_path / f'{name}.xml').write_text(text)
        stack = name.split('-')[0]
        (tmp_path / f'{name}.log').write_text(f'==> x\nstack: versions of {stack}\n1 passed\n')
    (tmp_path / 'page.md').write_text(
        'before\n<!-- begin of the table -->\nold\n<!-- end of the table -->\nafter\n'
    )
    return tmp_path


def test_the_table_holds_the_counts_of_each_record(render, records):
    page = records / 'page.md'
    assert render('--records', records, '--page', page)[0] == 0
    lines = page.read_text().splitlines()
    assert lines[0] == 'before' and lines[-1] == 'after' and 'old' not in lines
    rows = [
        [cell.strip() for cell in line.split('|')[1:-1]] for line in lines if line.startswith('| `')
    ]
    assert [row[0] + row[2] for row in rows] == [
        '`openmmlab`versions of openmmlab',
        '`onedl`versions of onedl',
        '`onedl`versions of onedl',
    ]
    # passed, failed, skipped, minutes
    assert [row[3:] for row in rows] == [
        ['18', '0', '2', '21'],
        ['14', '4', '2', '0'],
        ['18', '0', '2', '10'],
    ]


def test_absent_or_damaged_records_are_refused(render, records, tmp_path):
    page = records / 'page.md'
    before = page.read_text()
    code, _, error = render('--records', tmp_path / 'none', '--page', page)
    assert code == 1 and 'holds no record of .ci/run' in error
    (records / 'onedl-quick.xml').write_text('<testsuites>')
    code, _, error = render('--records', records, '--page', page)
    assert code == 1 and 'onedl-quick.xml' in error and error.count('\n') == 1
    assert page.read_text() == before
