"""The changes that plugging made, as text."""

import textwrap
from typing import Any

from .plan import Plan
from .trial import Trial
from .writing import changed_settings

_LONGEST = 60
#: Settings that tell one module or optimizer from another of its type.
_TELLING = (
    'arch',
    'depth',
    'attn_types',
    'out_indices',
    'in_channels',
    'scales',
    'num_outs',
    'lr',
    'weight_decay',
)


def changes_table(plan: Plan) -> str:
    """Return a table of every setting that changed: setting, before, after."""
    rows = [('setting', 'before', 'after')]
    changes = sorted(
        changed_settings(plan.before, plan.after),
        key=lambda change: not change[0].startswith('model'),
    )
    rows += [(path, shown(before), shown(after, before)) for path, before, after in changes]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f'{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}'.rstrip() for row in rows]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def notes_text(plan: Plan, trial: Trial | None) -> str:
    """Return the reasons, and what was not adapted, as paragraphs."""
    lines: list[str] = ['']
    for left in (False, True):
        notes = [f'{note.path}: {note.text}.' for note in plan.notes if note.left == left]
        if left and trial is not None and trial.idle:
            notes.append(
                f'model.backbone: {len(trial.idle)} parameters got no gradient ({trial.idle[0]}, '
                '...): training on several GPUs needs find_unused_parameters=True.'
            )
        if notes:
            lines += ['Not adapted:' if left else 'Why:']
            lines += [
                textwrap.fill(
                    note, 110, initial_indent='- ', subsequent_indent='  ', break_on_hyphens=False
                )
                for note in notes
            ]
    return '\n'.join(lines)


def trial_text(trial: Trial | None) -> str:
    """Return one line about the training step."""
    if trial is None:
        return 'not checked: no training step was made'
    losses = ', '.join(
        f'{name} {value:.3g}' for name, value in trial.losses.items() if name == 'loss'
    )
    return (
        f'one training step with images of {trial.size[0]}x{trial.size[1]} pixels: {losses}, '
        f'{trial.millions:.1f} M parameters, {trial.seconds:.1f} s'
    )


def shown(value: Any, before: Any = None) -> str:
    """Return a setting in a few words; of a list that keeps old entries, only the new ones."""
    if value is None:
        return '-'
    if isinstance(value, dict) and 'type' in value:
        return ', '.join(
            [str(value['type'])]
            + [f'{key}={_short(value[key])}' for key in _TELLING if key in value]
        )
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, dict) for one in value):
        old = before if isinstance(before, (list, tuple)) else []
        kept = sum(one in old for one in value)
        words = [f'{kept} as before'] * bool(kept) + [
            _short(one) for one in value if one not in old
        ]
        return _cut(' + '.join(words))
    return _cut(_short(value))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return (
            str(value['type'])
            if 'type' in value
            else ', '.join(
                f'{key}: {", ".join(one)}' if isinstance(one, dict) else f'{key}={_short(one)}'
                for key, one in value.items()
            )
        )
    return f'{value:g}' if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'
