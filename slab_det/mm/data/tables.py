"""Reports on annotation files as tables on a terminal."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .findings import Report


def report_tables(report: Report) -> Group:
    """Return what a file holds, class by class, and what is wrong with it."""
    title = f'{report.use.setting} {report.path}' if report.use.setting else report.path
    held = Table(title=Text(title), title_justify='left')
    held.add_column('class', overflow='fold')
    for name in ('boxes', 'small', 'medium', 'large'):
        held.add_column(name, justify='right')
    rows = [
        (name, int(counts.sum()), *map(int, counts))
        for name, counts in zip(report.classes, report.per_class)
    ]
    rows.append(('all', *map(int, (report.per_class.sum(), *report.per_class.sum(0)))))
    for name, *counts in rows:
        held.add_row(
            Text(str(name)), *(f'{count:,}' for count in counts), end_section=name == 'all'
        )
    parts: list = [held, Text(report.summary('remain'))]
    if report.findings:
        wrong = Table(title=Text('what is wrong'), title_justify='left')
        for name in ('', 'fault', 'first places', 'remedy'):
            wrong.add_column(name, overflow='fold')
        for finding in sorted(report.findings, key=lambda one: not one.refused):
            wrong.add_row(
                'refused' if finding.refused else 'warning',
                Text(finding.text),
                Text('\n'.join(finding.places)),
                Text(finding.remedy),
            )
        parts.append(wrong)
    return Group(*parts)


def print_reports(reports: Sequence[Report]) -> None:
    """Print every report; as wide as the terminal, at least 100 columns where it is a file."""
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=160)
    for report in reports:
        console.print(report_tables(report))
