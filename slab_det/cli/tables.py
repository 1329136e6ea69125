"""Tables for terminals and Markdown."""

from collections.abc import Sequence


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, the first aligned left, the others right, with a rule below the header."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify='right' if index else 'left', no_wrap=bool(index))
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # rich would fold lines at 80 characters in a file
        console.width = 1000
    console.print(table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = '') -> str:
    """Return a Markdown table; ``align`` has an 'l' or 'r' per column, by default 'lrr...'.

    Written here because rich's Markdown box does not write alignments.
    """
    align = align or 'l' + 'r' * (len(header) - 1)
    rules = [{'l': '---', 'r': '---:'}[side] for side in align]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (header, rules, *rows))
