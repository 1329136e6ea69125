"""Pictures of loss, AP and ratio by iteration."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from slab_det.cli import whole_file

matplotlib.use('Agg')
from matplotlib import pyplot as plt

#: Colours that differ in lightness too, so that they can be told apart without colour.
COLORS = {'LN': '#000000', 'BN': '#d55e00', 'RepBN': '#e69f00', 'PRepBN': '#0072b2'}
Rows = list[dict[str, float]]


def band(runs: Sequence[Rows], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Iterations that all runs have ``key`` for, and its values ``(runs, iterations)`` there."""
    tables = [{row['step']: row[key] for row in rows if key in row} for rows in runs]
    steps = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    return np.array(steps), np.array([[table[step] for step in steps] for table in tables])


def _draw(axis, runs: Sequence[Rows], key: str, scale: float = 1.0, **style) -> None:
    steps, values = band(runs, key)
    if not len(steps):
        return
    values = values * scale
    axis.plot(steps, values.mean(0), **style)
    if len(runs) > 1:
        axis.fill_between(
            steps, values.min(0), values.max(0), color=style['color'], alpha=0.15, linewidth=0
        )


def draw_curves(path: Path, title: str, results: dict[tuple[str, str], list[dict]]) -> None:
    """Write a picture with a row per attention: loss, box AP and ratio; lines are means over seeds,
    bands reach from the lowest to the highest.

    Args:
        results: norm and attention -> contents of result files.

    Raises:
        InputError: ``path`` cannot be written.
    """
    attentions = list(dict.fromkeys(attention for _, attention in results))
    figure, grid = plt.subplots(
        len(attentions),
        3,
        figsize=(11, 3.0 * len(attentions)),
        squeeze=False,
        sharex=True,
        sharey='col',
        constrained_layout=True,
    )
    for row, attention in zip(grid, attentions):
        for (norm, kind), cell in results.items():
            if kind != attention:
                continue
            style = dict(color=COLORS[norm], label=norm, linewidth=1.5)
            training = [result['curves']['training'] for result in cell]
            evaluations = [result['curves']['evaluations'] for result in cell]
            _draw(row[0], training, 'loss', **style)
            _draw(row[1], evaluations, 'bbox_AP', 100.0, marker='o', markersize=3, **style)
            _draw(row[2], training, 'ratio', **style)
        row[0].set_ylabel(f'{attention}\nloss')
        row[0].set_yscale('log')
        row[1].set_ylabel('box AP')
        row[2].set_ylabel('ratio of PRepBN')
        row[0].legend(frameon=False, fontsize=8)
        for axis in row:
            axis.grid(True, which='major', alpha=0.25)
            axis.spines[['top', 'right']].set_visible(False)
    for axis in grid[-1]:
        axis.set_xlabel('iteration')
    figure.suptitle(title)
    with whole_file(path, '--out') as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)
