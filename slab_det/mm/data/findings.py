"""What is read from an annotation file, and what is found wrong with it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from slab_det.errors import InputError

from .rules import ALL_ROLES


class Use(NamedTuple):
    """How a config, or a tool, reads an annotation file.

    Attributes:
        setting: the setting that names the file.
        roles: what it is read for, see :mod:`.rules`.
        classes: names of the classes; None for every category of the file.
        classes_setting: the setting that names the classes.
        images: folder of the images; None where they are not looked for.
        annotated: whether the file must hold annotations.
        panoptic: the annotations are those of COCO's panoptic format.
        keep_empty: images without annotations are trained on.
        min_size: smaller images are left out of training.
        indices: the data set's subset, a number of images or their indices.
    """

    setting: str = '--ann'
    roles: frozenset[str] = ALL_ROLES
    classes: tuple[str, ...] | None = None
    classes_setting: str = 'classes'
    images: str | None = None
    annotated: bool = True
    panoptic: bool = False
    keep_empty: bool = True
    min_size: float = 0
    indices: Any = None


class Finding(NamedTuple):
    """One kind of fault in one file.

    Attributes:
        kind: its name in :data:`.rules.RULES`, or of a check of the classes or images.
        text: what is wrong, with the number.
        places: the first three entries.
        refused: whether work cannot begin.
        remedy: what to do.
        images: indices of the images concerned.
    """

    kind: str
    text: str
    places: tuple[str, ...]
    refused: bool
    remedy: str
    images: np.ndarray = np.empty(0, int)

    def __str__(self) -> str:
        places = '; '.join(self.places)
        return f'{self.text} ({places})' if places else self.text


class Report(NamedTuple):
    """What one use of a file finds.

    Attributes:
        path, use: the file and its use.
        images, images_kept: all images, and those that remain under mmdet's rules.
        annotations, annotations_kept: likewise.
        classes: names of the classes.
        per_class: ``(classes, 3)`` annotations kept, small, medium and large.
        findings: what is wrong.
    """

    path: str
    use: Use
    images: int
    images_kept: int
    annotations: int
    annotations_kept: int
    classes: tuple[str, ...]
    per_class: np.ndarray
    findings: list[Finding]

    @property
    def refused(self) -> list[Finding]:
        """The findings with which work cannot begin."""
        return [finding for finding in self.findings if finding.refused]

    def require_sound(self) -> None:
        """Raise InputError as :func:`require_sound` does."""
        require_sound([self])

    def summary(self, name: str) -> str:
        """Return how much of the file is used, in one line."""
        return (
            f'{name}: {self.images_kept:,} of {self.images:,} images, '
            f'{self.annotations_kept:,} of {self.annotations:,} annotations, '
            f'{len(self.classes)} class{"es" * (len(self.classes) != 1)}'
        )


def require_sound(reports: Sequence[Report]) -> None:
    """Raise InputError, a sentence with every kind of fault of every file, if work cannot begin."""
    found = list(_by_file(reports, refused=True))
    if found:
        faults = [
            f'{report.use.setting} {report.path}: {"; ".join(map(str, findings))}'
            for report, findings in found
        ]
        remedies = dict.fromkeys(
            finding.remedy for _, findings in found for finding in findings if finding.remedy
        )
        raise InputError(f'{"; ".join(faults)}: {"; ".join(remedies)}')


def warnings_of(reports: Sequence[Report]) -> list[str]:
    """Return a sentence per file and kind of fault that training and evaluation survive."""
    return [
        f'{report.use.setting} {report.path}: {finding}'
        for report, findings in _by_file(reports, refused=False)
        for finding in findings
    ]


def _by_file(reports: Sequence[Report], refused: bool) -> Iterator[tuple[Report, list[Finding]]]:
    """Yield the findings of each report that none of the same file before it has."""
    told: set[tuple[str, str]] = set()
    for report in reports:
        findings = [
            finding
            for finding in report.findings
            if finding.refused == refused and (report.path, finding.kind) not in told
        ]
        told |= {(report.path, finding.kind) for finding in findings}
        if findings:
            yield report, findings
