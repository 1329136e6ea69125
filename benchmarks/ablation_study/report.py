"""docs/ablation.md: tables and pictures from result files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from slab_det.cli import InputError, writable_folder, write_text
from slab_det.cli.tables import markdown_table

from .curves import draw_curves
from .grid import ATTENTIONS, BUDGETS, NORMS, SEEDS, STUDIES, Cell, grid, iterations
from .runs import read_result, run_folder
from .statistics import Difference, Summary, paired_difference, summarize

BEGIN = '<!-- begin of what benchmarks/ablation.py writes -->'
END = '<!-- end of what benchmarks/ablation.py writes -->'
NONE = '–'
TITLES = {'bccd': 'RetinaNet on BCCD', 'shapes': 'Mask R-CNN on the built-in data set'}
METRIC_TITLES = {
    'bbox_AP': 'box AP',
    'bbox_AP50': 'box AP50',
    'segm_AP': 'mask AP',
    'segm_AP50': 'mask AP50',
}
#: What the report compares with what.
AGAINST = ('LN', 'BN')

#: Cell name -> seed -> contents of the result file.
Results = dict[str, dict[int, dict]]
#: Title of a column of differences, and the cell whose runs of the same seeds are subtracted.
Baseline = tuple[str, Callable[[Cell], Cell | None]]


def load_results(work_dir: Path, cells: Sequence[Cell]) -> Results:
    """Every finished run of the cells, whatever its seed."""
    results = {}
    for cell in cells:
        folders = run_folder(work_dir, cell.name, 0).parent.glob('seed*')
        seeds = sorted(int(folder.name[4:]) for folder in folders if folder.name[4:].isdigit())
        found = {seed: read_result(work_dir, cell.name, seed) for seed in seeds}
        results[cell.name] = {seed: result for seed, result in found.items() if result is not None}
    return results


def find(cells: Sequence[Cell], **settings) -> Cell | None:
    """The first cell with these settings."""
    return next(
        (
            cell
            for cell in cells
            if all(getattr(cell, key) == value for key, value in settings.items())
        ),
        None,
    )


def values(results: Results, cell: Cell, metric: str) -> dict[int, float]:
    """Seed -> metric in percent."""
    return {
        seed: 100 * result['metrics'][metric]
        for seed, result in results.get(cell.name, {}).items()
        if metric in result['metrics']
    }


def show(summary: Summary | None) -> str:
    if summary is None:
        return NONE
    spread = '' if summary.std is None else f' ± {summary.std:.1f}'
    return f'{summary.mean:.1f}{spread}'


def show_difference(difference: Difference | None) -> str:
    """Such as ``+0.4 ± 1.2``, bold where the interval leaves out 0."""
    if difference is None:
        return NONE
    if difference.margin is None:
        return f'{difference.mean:+.1f} (one seed)'
    text = f'{difference.mean:+.1f} ± {difference.margin:.1f}'
    return f'**{text}**' if difference.decided else text


def metrics_of(results: Results, cells: Sequence[Cell]) -> list[str]:
    names = {
        name
        for cell in cells
        for result in results.get(cell.name, {}).values()
        for name in result['metrics']
    }
    return [name for name in METRIC_TITLES if name in names]


def score_table(
    results: Results,
    cells: Sequence[Cell],
    first: str,
    label: Callable[[Cell], str],
    against: Sequence[Baseline] = (),
) -> str:
    """A row per cell: mean and spread of every metric, and the differences in box AP to other
    cells."""
    metrics = metrics_of(results, cells)
    header = [
        first,
        'attention',
        *(METRIC_TITLES[name] for name in metrics),
        *(title for title, _ in against),
        'seeds',
        'CPU min',
    ]
    rows = []
    for cell in cells:
        runs = results.get(cell.name, {})
        minutes = summarize(
            [run['cpu_seconds'] / 60 for run in runs.values() if run['cpu_seconds'] is not None]
        )
        scores = [show(summarize(list(values(results, cell, name).values()))) for name in metrics]
        differences = [
            show_difference(against_cell(results, cell, baseline(cell))) for _, baseline in against
        ]
        rows.append(
            [
                label(cell),
                cell.attention,
                *scores,
                *differences,
                ' '.join(map(str, runs)) or 'none yet',
                NONE if minutes is None else f'{minutes.mean:.1f}',
            ]
        )
    return markdown_table(header, rows, 'll' + 'r' * (len(header) - 2))


def against_cell(results: Results, cell: Cell, other: Cell | None) -> Difference | None:
    """By how much the box AP of ``cell`` exceeds that of ``other`` in runs of the same seeds; None
    without ``other`` and for the cell itself."""
    if other is None or other == cell:
        return None
    return paired_difference(values(results, cell, 'bbox_AP'), values(results, other, 'bbox_AP'))


def difference_table(results: Results, cells: Sequence[Cell]) -> str:
    """A row per norm and attention: difference to LayerNorm and BatchNorm of the same seed; then a
    row per norm with the pairs of both attentions together."""
    norms = list(dict.fromkeys(cell.norm for cell in cells))
    against = [norm for norm in AGAINST if norm in norms]

    def pairs(norm: str, attentions: Sequence[str]) -> dict[tuple[str, int], float]:
        return {
            (attention, seed): ap
            for attention in attentions
            for seed, ap in values(
                results, find(cells, norm=norm, attention=attention), 'bbox_AP'
            ).items()
        }

    def difference(norm: str, other: str, attentions: Sequence[str]) -> str:
        if norm == other:
            return NONE
        return show_difference(paired_difference(pairs(norm, attentions), pairs(other, attentions)))

    rows = [
        [
            norm,
            ' and '.join(attentions),
            *(difference(norm, other, attentions) for other in against),
        ]
        for attentions in (*((attention,) for attention in ATTENTIONS), ATTENTIONS)
        for norm in norms
        if norm != 'LN'
    ]
    return markdown_table(
        ['norm', 'attention', *(f'minus {norm}' for norm in against)],
        rows,
        'll' + 'r' * len(against),
    )


def count_missing(results: Results, cells: Sequence[Cell]) -> int:
    """How many runs of the usual seeds are not finished."""
    return sum(seed not in results.get(cell.name, {}) for cell in cells for seed in SEEDS)


def _grid_section(results: Results, data: str, pictures: Path, out: Path) -> list[str]:
    cells = sorted(
        (cell for cell in grid() if cell.data == data),
        key=lambda cell: (ATTENTIONS.index(cell.attention), NORMS.index(cell.norm)),
    )
    budget = BUDGETS[data]
    lines = [
        f'## {TITLES[data]}',
        '',
        f'{budget.iterations} iterations of 4 images, peak learning rate {budget.lr:g}. Mean ± '
        'standard deviation over seeds, in percent; CPU time with all evaluations.',
        '',
        score_table(results, cells, 'norm', lambda cell: cell.norm),
        '',
    ]
    gaps = count_missing(results, cells)
    if gaps:
        lines += [
            f'**{gaps} of {len(cells) * len(SEEDS)} runs are not trained yet**; the command above '
            'goes on with them.',
            '',
        ]
    lines += [
        'Differences in box AP between runs of the same seed, with 95 % confidence intervals '
        "(Student's t over the seeds); bold if the interval excludes 0:",
        '',
        difference_table(results, cells),
        '',
    ]
    diverged = [
        f'{name} seed {seed}'
        for name, runs in results.items()
        for seed, run in runs.items()
        if not run['finite'] and run['settings']['data'] == data
    ]
    if diverged:
        lines += [f'The loss was not finite in: {", ".join(diverged)}.', '']
    shown = {
        (cell.norm, cell.attention): list(results[cell.name].values())
        for cell in cells
        if results.get(cell.name)
    }
    if shown:
        picture = pictures / f'ablation_{data}.png'
        draw_curves(picture, TITLES[data], shown)
        lines += [f'![Loss, AP and ratio by iteration]({picture.relative_to(out.parent)})', '']
    return lines


def _label(study: str) -> tuple[str, Callable[[Cell], str]]:
    """Title of the first column of a study's table, and what stands in it."""
    return {
        'schedule': ('ratio 0 from', lambda cell: f'{cell.ratio_end:.0%} of the training'),
        'batch': ('norm, images per iteration', lambda cell: f'{cell.norm}, {cell.batch}'),
        'norm_eval': (
            'norm, statistics',
            lambda cell: f'{cell.norm}, {"frozen" if cell.norm_eval else "moving"}',
        ),
        'from_ln': (
            'RepBN branch',
            lambda cell: (
                'closest to the LayerNorm'
                if cell.fit_layer_norm
                else 'new, statistics frozen'
                if cell.norm_eval
                else 'LayerNorm detector it starts from'
                if cell.study == 'grid'
                else 'new'
            ),
        ),
        'length': ('norm, iterations', lambda cell: f'{cell.norm}, {iterations(cell)}'),
    }[study]


def _baselines(study: str, cells: Sequence[Cell]) -> list[Baseline]:
    """What the cells of a study are compared with."""
    return {
        'schedule': [('minus 80%', lambda cell: find(cells, ratio_end=0.8))],
        'batch': [('minus LN', lambda cell: find(cells, norm='LN', batch=cell.batch))],
        'norm_eval': [('minus moving', lambda cell: find(cells, norm=cell.norm, norm_eval=False))],
        'from_ln': [
            ('minus the start', lambda cell: find(cells, study='grid')),
            (
                'minus new',
                lambda cell: (
                    cell.start
                    and find(cells, study='from_ln', fit_layer_norm=False, norm_eval=False)
                ),
            ),
        ],
        'length': [('minus LN', lambda cell: find(cells, norm='LN', length=cell.length))],
    }[study]


def calibration_table(results: Results, cells: Sequence[Cell]) -> str:
    """A row per cell: box AP before and after, of the same seeds, and by how much statistics
    moved."""
    by_name = {cell.name: cell for cell in grid()}
    rows = []
    for cell in cells:
        after = values(results, cell, 'bbox_AP')
        before = {
            seed: ap
            for seed, ap in values(results, by_name[cell.start], 'bbox_AP').items()
            if seed in after
        }
        if not after:
            continue
        moved = [run['calibration']['mean_change'] for run in results[cell.name].values()]
        rows.append(
            [
                cell.norm,
                cell.attention,
                show(summarize(list(before.values()))),
                show(summarize(list(after.values()))),
                show_difference(paired_difference(after, before)),
                f'{max(moved):.2f}',
                ' '.join(map(str, after)),
            ]
        )
    return markdown_table(
        [
            'norm',
            'attention',
            'box AP as trained',
            'calibrated',
            'difference',
            'largest change of a mean, in standard deviations',
            'seeds',
        ],
        rows,
        'llrrrrr',
    )


def padding_table(results: Results, cells: Sequence[Cell]) -> str:
    """A row per cell: box AP as trained and with the statistics of the validation images, and how
    far off the trained ones are."""

    def true(cell: Cell) -> dict[int, float]:
        return {
            seed: 100 * run['calibration']['metrics']['bbox_AP']
            for seed, run in results.get(cell.name, {}).items()
        }

    padded = find(cells, valid_tokens=False)
    rows = []
    for cell in cells:
        runs = results.get(cell.name, {})
        if not runs:
            continue
        differences = (
            against_cell(results, cell, padded),
            None if cell == padded else paired_difference(true(cell), true(padded)),
        )
        scores = (values(results, cell, 'bbox_AP'), true(cell))
        errors = [
            summarize([run['calibration'][key] for run in runs.values()])
            for key in ('mean_change', 'var_change')
        ]
        rows.append(
            [
                'tokens of images' if cell.valid_tokens else 'all tokens',
                *(
                    text
                    for score, difference in zip(scores, differences)
                    for text in (show(summarize(list(score.values()))), show_difference(difference))
                ),
                *(f'{error.mean:.2f}' for error in errors),
                ' '.join(map(str, runs)),
            ]
        )
    return markdown_table(
        [
            'statistics count',
            'box AP',
            'minus all tokens',
            'with true statistics',
            'minus all tokens',
            'largest error of a mean',
            'of a variance',
            'seeds',
        ],
        rows,
        'lrrrrrrr',
    )


STUDY_TITLES = {
    'calibration': 'Recomputed statistics',
    'schedule': 'When the ratio reaches 0',
    'batch': 'Images per iteration',
    'norm_eval': 'Frozen statistics while a finished detector is trained further',
    'length': 'Mask R-CNN on the built-in data set, trained longer',
    'padding': 'Padding',
    'from_ln': 'From the LayerNorm detector to none',
}


def _study_section(results: Results, study: str) -> list[str]:
    cells = STUDIES[study]()
    if study in ('schedule', 'batch', 'length'):  # the grid has one more point
        settings = {(cell.data, cell.norm, cell.attention) for cell in cells}
        cells = cells + [
            cell for cell in grid() if (cell.data, cell.norm, cell.attention) in settings
        ]
    cells = sorted(
        cells, key=lambda cell: (cell.norm, cell.batch, cell.ratio_end, cell.norm_eval, cell.length)
    )
    if not any(results.get(cell.name) for cell in STUDIES[study]()):
        return []
    if study == 'calibration':
        return [f'## {STUDY_TITLES[study]}', '', calibration_table(results, cells), '']
    if study == 'padding':
        return [
            f'## {STUDY_TITLES[study]}',
            '',
            padding_table(results, cells),
            '',
            'Errors are those of the running statistics against the true ones of the validation '
            'images, one by one without padding: means in standard deviations, variances in true '
            'variances, the largest over norms of the backbone and their channels, averaged over '
            'seeds.',
            '',
        ]
    if study == 'from_ln':
        cells = [cell for cell in grid() if cell.name == cells[0].start] + cells
    lines = [
        f'## {STUDY_TITLES[study]}',
        '',
        score_table(results, cells, *_label(study), _baselines(study, cells)),
        '',
        'Differences are in box AP between runs of the same seed, as above.',
        '',
    ]
    if study == 'norm_eval':
        lines += [
            f"Each went on for {iterations(cells[0])} iterations from the grid's detector of its "
            'seed, at a tenth of the learning rate.',
            '',
        ]
    if study == 'from_ln':
        lines += [
            f'{iterations(cells[-1])} iterations, in the first four fifths of which the LayerNorm '
            'fades.',
            '',
        ]
    return lines


def render(results: Results, out: Path, pictures: Path) -> str:
    """The written part of the report; pictures are drawn into ``pictures``."""
    machines = sorted({run['machine'] for runs in results.values() for run in runs.values()})
    lines = [BEGIN, '', *(f'> {machine}' for machine in machines), '']
    for data in TITLES:
        lines += _grid_section(results, data, pictures, out)
    for study in STUDY_TITLES:
        lines += _study_section(results, study)
    return '\n'.join([*lines, END])


def insert(text: str, written: str, out: Path) -> str:
    """``text`` with everything from BEGIN to END replaced by ``written``.

    Raises:
        InputError: ``text`` does not have both, once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(
            f'--out {out} must hold the lines "{BEGIN}" and "{END}" once, between which the '
            'results go: give a new file, or put them in'
        )
    return text[: text.index(BEGIN)] + written + text[text.index(END) + len(END) :]


def write_report(out: Path, work_dir: Path) -> None:
    """Write the results of ``work_dir`` into ``out``, and pictures into ``images`` beside it. What
    stands around the written part of an existing file stays.

    Raises:
        InputError: nothing is finished, or ``out`` cannot be written or has no place for it.
    """
    cells = [cell for study in STUDIES.values() for cell in study()]
    results = load_results(work_dir, cells)
    if not any(results.values()):
        raise InputError(
            f'--work-dir {work_dir} holds no finished run: train some first, or give another folder'
        )
    text = out.read_text() if out.exists() else f'# Ablation\n\n{BEGIN}\n{END}\n'
    insert(text, '', out)
    pictures = writable_folder(out.parent / 'images', '--out')
    pictures.mkdir(parents=True, exist_ok=True)
    text = insert(text, render(results, out, pictures), out)
    write_text(out, text, '--out')
