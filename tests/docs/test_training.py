"""The training page explains every warning of the hooks, and errors in the words that users see."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from slab_det.layers import ValidTokens
from slab_det.mm.hooks import PRepBNHook
from slab_det.mm.hooks.training_points import to_iterations
from slab_det.statistics.calibration import sites_to_calibrate

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'training.md').read_text()
#: What the last table quotes, in its first column.
QUOTES = re.findall(
    r'^\| `([^`]+)`(?: \(error\))? \|.*\|.*\|$',
    PAGE[PAGE.index('## What to watch') :],
    re.MULTILINE,
)


def fixed_parts(node):
    """Return the parts of a text in source code that are the same in every message, in order; None
    where it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.Constant)]
    if isinstance(node, ast.BinOp):
        parts = [fixed_parts(side) or [] for side in (node.left, node.right)]
        return sum(parts, []) or None
    return None


def key_phrase(parts):
    """Return the first three or more words of a warning that no value interrupts, without the
    hook's name before and up to the next stop; None where there are none."""
    for part in parts:
        for phrase in re.split(r'[:;,.(](?:\s|$)', re.sub(r'^\w+Hook: ', '', part)):
            if len(phrase.split()) >= 3:
                return phrase.strip(' ()')
    return None


def warnings_in(source):
    """Return line and key phrase of each call of ``warning``, ``warn`` and of a hook's own
    ``_warn``; what ``_warn`` itself hands on is none."""
    found = []

    def visit(node):
        if isinstance(node, ast.FunctionDef) and node.name == '_warn':
            return
        name = isinstance(node, ast.Call) and getattr(
            node.func, 'attr', getattr(node.func, 'id', None)
        )
        if name in ('warning', 'warn', '_warn'):
            texts = [parts for parts in map(fixed_parts, node.args) if parts is not None]
            found.append((node.lineno, key_phrase(texts[-1]) if texts else None))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


WARNINGS = [
    (path.relative_to(ROOT), line, phrase)
    for path in sorted((ROOT / 'slab_det/mm').glob('*/*.py'))
    if path.parent.name in ('hooks', 'resume')
    for line, phrase in warnings_in(path.read_text())
]


def test_warnings_are_found_in_whatever_way_they_are_written():
    source = """
def f(self, runner):
    runner.logger.warning(f'PRepBNHook: {a} is {b} at the {c} of it all, so that nothing: do this.')
    warnings.warn('an image of this' ' size; take another', UserWarning)
    self._warn(runner, 'topic', 'SomeHook: the first ' + 'of several words: x')
    logger.info('this is of no interest')
    logger.warning(text)
def _warn(self, message):
    logger.warning(f'SomeHook: {message}')
"""
    assert warnings_in(source) == [
        (3, 'of it all'),
        (4, 'an image of this size'),
        (5, 'of several words'),
        (7, None),
    ]


@pytest.mark.parametrize(
    'path, line, phrase', WARNINGS, ids=lambda value: str(value).replace('/', '.')
)
def test_the_page_explains_a_warning(path, line, phrase):
    assert phrase, (
        f'{path}:{line}: write the text of the warning in the call, with three words in a row'
    )
    assert any(phrase in quote for quote in QUOTES), (
        f'docs/training.md, last table, does not explain the warning "... {phrase} ..." '
        f'of {path}:{line}: add a row | `... {phrase} ...` | what it means | what to do |'
    )


def test_the_hooks_have_the_warnings_that_are_known():
    phrases = {phrase for _, _, phrase in WARNINGS}
    assert {
        'the ratio arrives at iteration',
        'the running variance of',
        'the statistics still change by',
        'a checkpoint was saved at an unexpected moment',
    } <= phrases


class Frozen(nn.Sequential):
    def train(self, mode=True):
        return super().train(False)


def no_image():
    to_iterations('end', 2, True, SimpleNamespace(train_dataloader=SimpleNamespace(dataset=[])))


@pytest.mark.parametrize(
    'fault',
    [
        lambda: sites_to_calibrate(Frozen(nn.BatchNorm1d(2)), False),
        lambda: ValidTokens([(32, 32), (32, 20)], (32, 32)).rows(torch.zeros(2, 7, 4)),
        lambda: PRepBNHook().before_train(SimpleNamespace(model=nn.Linear(1, 1), hooks=[])),
        lambda: PRepBNHook().before_train(SimpleNamespace(hooks=[PRepBNHook(), PRepBNHook()])),
        no_image,
    ],
    ids=['frozen', 'no map', 'no PRepBN', 'two hooks', 'no image'],
)
def test_an_error_of_the_table_is_the_one_that_is_raised(fault):
    with pytest.raises(ValueError) as error:
        fault()
    patterns = ['.+'.join(map(re.escape, quote.split('...'))) for quote in QUOTES]
    assert any(re.match(pattern, str(error.value)) for pattern in patterns), error.value
