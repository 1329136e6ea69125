"""Lint, format and the import rules of docs/contributing.md hold in the whole checkout."""

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sysconfig.get_path('scripts'))


@pytest.mark.parametrize(
    'words',
    [
        ('ruff', 'check', '--no-cache', '.'),
        ('ruff', 'format', '--no-cache', '--check', '.'),
        ('lint-imports', '--no-cache'),
    ],
    ids=['lint', 'format', 'imports'],
)
def test_the_checkout_is_clean(words):
    if not (SCRIPTS / words[0]).exists():
        pytest.skip(f'{words[0]} is not installed: pip install -r requirements/tests.txt')
    done = subprocess.run(
        [SCRIPTS / words[0], *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_layers_import_torch_numpy_and_the_layers_of_timm_only():
    allowed = ('torch', 'numpy', 'timm.layers', 'slab_det')
    foreign = [
        f'{file.relative_to(ROOT)}:{line}: {module}'
        for file in sorted((ROOT / 'slab_det/layers').rglob('*.py'))
        for line, module in imported(file)
        if module.partition('.')[0] not in sys.stdlib_module_names
        and not any(f'{module}.'.startswith(f'{name}.') for name in allowed)
    ]
    assert foreign == []


def imported(file):
    """Yield (line, module) for every absolute import of a file, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield node.lineno, f'{node.module}.{alias.name}'
