"""Tables for terminals and Markdown."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first aligned left, the others right, a rule under the header."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [_aligned(row, widths) for row in (header, *rows)]
    return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = '') -> str:
    """A Markdown table; ``align`` has an 'l' or 'r' per column, by default 'lrr...'."""
    align = align or 'l' + 'r' * (len(header) - 1)
    rules = [{'l': '---', 'r': '---:'}[side] for side in align]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (header, rules, *rows))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if i else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths))
    )
    return '  '.join([first, *others])
