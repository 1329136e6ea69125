"""Renders the docstrings to docs/api.md: python tools/render_api.py [--out FILE] [--check]"""

import argparse
import importlib
import inspect
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

from slab_det.cli import InputError, run, write_text

ROOT = Path(__file__).resolve().parents[1]
#: Modules whose public names the page lists, with what they need besides torch and timm.
MODULES = (
    'slab_det.mm.backbones',
    'slab_det.mm.necks',
    'slab_det.mm.hooks',
    'slab_det.layers',
    'slab_det.models',
    'slab_det.checkpoints',
    'slab_det.statistics.calibration',
    'slab_det.statistics.layer_norm_fit',
    'slab_det.deploy',
    'slab_det.mm.datasets',
    'slab_det.mm.whole_files',
    'slab_det.mm.analysis',
    'slab_det.mm.analysis.schedule',
    'slab_det.mm.analysis.coco_results',
    'slab_det.mm.analysis.coco_errors',
    'slab_det.mm.visualization',
    'slab_det.mm.visualization.features',
)
SECTIONS = (
    'Args',
    'Arguments',
    'Attributes',
    'Raises',
    'Returns',
    'Shapes',
    'Yields',
    'Example',
    'Examples',
    'Note',
)
HEAD = """# API reference

<!-- Written by tools/render_api.py from the docstrings; change those. -->

The public names of the package, module by module. `slab_det.layers`, `slab_det.models` and `slab_det.checkpoints` need torch and
timm only; the others need mmengine, mmcv and mmdet.
"""


def parse_args(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Render the docstrings to a page')
    parser.add_argument(
        '--out',
        default=str(ROOT / 'docs/api.md'),
        metavar='FILE',
        help='page to write (default: docs/api.md)',
    )
    parser.add_argument(
        '--check', action='store_true', help='write nothing, fail where the page is out of date'
    )
    parser.add_argument('--traceback', action='store_true', help='show the whole trace of an error')
    return parser.parse_args(arguments)


def public_names(module) -> list[str]:
    """``__all__``, else the classes and functions that the module itself defines."""
    if hasattr(module, '__all__'):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith('_') and getattr(value, '__module__', '') == module.__name__
    ]


def signature(name: str, value) -> str:
    """The call of a class or function, without its annotations."""
    if inspect.isclass(value) and issubclass(value, BaseException):
        return name
    plain = []
    for parameter in inspect.signature(value).parameters.values():
        plain.append(parameter.replace(annotation=inspect.Parameter.empty))
    text = str(inspect.Signature(plain))
    text = text.replace('<factory>', '...')
    return name + re.sub(r'<(?:function|class) .*?(\w+)\'?(?: at 0x\w+)?>', r'\1', text)


def markdown(text: str) -> str:
    """Google-style docstring with reStructuredText roles to Markdown."""
    text = re.sub(r':math:`([^`]*)`', lambda match: f'`{_formula(match[1])}`', text)
    text = re.sub(r':\w+:`~?(?:[\w.]*\.)?([\w]+)`', r'`\1`', text)
    text = text.replace('``', '`')
    lines: list[str] = []
    blocks = re.split(r'\n\s*\n', text)
    for block in blocks:
        if re.search(r'^\s*=====', block, re.MULTILINE):
            lines += ['```text', textwrap.dedent(block), '```', '']
            continue
        first, *rest = block.splitlines()
        if first.strip().removesuffix(':') in SECTIONS and first.strip().endswith(':'):
            lines += [f'**{first.strip()}**', '']
            body = textwrap.dedent('\n'.join(rest))
            listed = first.strip() in ('Args:', 'Arguments:', 'Attributes:', 'Raises:')
            lines += (_entries(body) if listed else body.splitlines()) + ['']
        elif first.rstrip().endswith('::'):
            lines += [first.rstrip().removesuffix(':'), *rest, '']
        else:
            lines += [*block.splitlines(), '']
    return '\n'.join(line.rstrip() for line in lines).strip()


def _formula(text: str) -> str:
    text = re.sub(r'\\(?:lfloor|rfloor)\s*', '|', text)
    return re.sub(r'\\[,;]\s*', ' ', text).replace('\\', '')


def _entries(body: str) -> list[str]:
    """``name: what it is`` with continuation lines, as a list."""
    lines = []
    for line in body.splitlines():
        match = re.match(r'(\*{0,2}\w[\w, /*.]*?): (.*)', line)
        if match and not line.startswith(' '):
            names = ', '.join(f'`{name.strip()}`' for name in match[1].split(','))
            lines.append(f'- {names}: {match[2]}')
        else:
            lines.append(('  ' + line.strip()) if lines else line)
    return lines


def members(value) -> Iterator[tuple[str, object]]:
    """The methods that a class of ours defines itself, with a docstring."""
    for name, method in vars(value).items():
        if not name.startswith('_') and inspect.isfunction(method) and method.__doc__:
            yield name, method


def render() -> str:
    parts, seen = [HEAD], {}
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f'\n## {name}\n\n{markdown(inspect.getdoc(module) or "")}\n')
        for public in sorted(public_names(module), key=str.lower):
            value = getattr(module, public)
            if id(value) in seen or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            seen[id(value)] = public
            text = inspect.getdoc(value)
            if not value.__module__.startswith('slab_det') or not text:
                continue
            parts.append(
                f'\n### {public}\n\n```python\n'
                f'{_wrapped(signature(public, value))}\n```\n\n{markdown(text)}\n'
            )
            if inspect.isclass(value):
                for member, method in members(value):
                    parts.append(
                        f'\n#### {public}.{member}\n\n```python\n'
                        f'{_wrapped(signature(member, method))}\n```\n\n'
                        f'{markdown(inspect.getdoc(method))}\n'
                    )
    return ''.join(parts)


def _wrapped(call: str) -> str:
    name = call.partition('(')[0]
    return textwrap.fill(
        call,
        110,
        subsequent_indent=' ' * (len(name) + 1),
        break_long_words=False,
        break_on_hyphens=False,
    )


def main(args: argparse.Namespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        text = render()
    page = Path(args.out)
    if not args.check:
        write_text(args.out, text, '--out')
        print(f'{args.out} written')
    elif not page.is_file() or page.read_text(encoding='utf-8') != text:
        raise InputError(f'{args.out} is out of date: run python tools/render_api.py')


if __name__ == '__main__':
    run(main, parse_args())
