"""The data sets of a config: files, annotations, classes and images, before work begins."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from slab_det.errors import InputError
from slab_det.mm.data import (
    Annotations,
    Finding,
    Report,
    check_class_order,
    classes_of,
    read_annotations,
)
from slab_det.mm.data.findings import require_sound, warnings_of
from slab_det.mm.data.images import check_images
from slab_det.mm.data.rules import TRAIN
from slab_det.progress import progress

from .data_sources import Source, class_of, datasets_of, require_types, sources_of

PHASES = ('train', 'val', 'test')


def check_data(
    cfg: Any,
    phases: Sequence[str],
    announce: bool = False,
    decode: bool = False,
    absent_ok: bool = False,
) -> list[Report]:
    """Check the data sets and evaluators of a config's phases, in the first process only.

    Files, annotations and classes are judged whole, the images by the headers of a sample.

    Args:
        cfg: the config.
        phases: of ``train``, ``val`` and ``test``.
        announce: print a line that says what will be trained on.
        decode: decode every image.
        absent_ok: files that are missing, and the images, are not looked at.

    Returns:
        A report per file and use.

    Raises:
        InputError: naming the setting, its value and the remedy.
    """
    if not first_process():
        return []
    _check_classes_of_sets(cfg, phases)
    judged = []
    for place, source, _, report in _judge(cfg, phases, decode, absent_ok):
        judged.append((place, source, report))
    found = [one[1:] for one in sorted(judged, key=lambda one: one[0])]
    reports = [report for _, report in found]
    require_sound(reports)
    _check_training(found)
    for sentence in warnings_of(reports):
        print(f'warning: {sentence}', file=sys.stderr)
    if announce:
        for line in summaries(found):
            print(line, flush=True)
    return reports


def look_at_data(
    cfg: Any, phases: Sequence[str], decode: bool = False
) -> list[tuple[Annotations, Report]]:
    """Return a report per file and use like :func:`check_data`, whatever is wrong inside files."""
    _check_classes_of_sets(cfg, phases)
    judged = sorted(_judge(cfg, phases, decode), key=lambda one: one[0])
    return [(found, report) for _, _, found, report in judged]


def _judge(
    cfg: Any, phases: Sequence[str], decode: bool, absent_ok: bool = False
) -> Iterator[tuple[int, Source, Annotations, Report]]:
    """Yield the place in the config of each source, the source, its file and what it finds; the
    uses of a file follow each other, so that it is read once and only one is held."""
    sources = list(sources_of(cfg, phases, absent_ok))
    for key in dict.fromkeys((source.path, source.use.panoptic) for source in sources):
        uses = [
            (place, one) for place, one in enumerate(sources) if (one.path, one.use.panoptic) == key
        ]
        annotated = all(source.use.annotated for _, source in uses)
        content = read_annotations(key[0], uses[0][1].use.setting, annotated)
        found = Annotations(key[0], content, key[1])
        for place, source in uses:
            yield place, source, found, check_source(found, source, decode)


def first_process() -> bool:
    """Return whether this is the first of the processes that a launcher started."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    rank = next((os.environ[name] for name in names if name in os.environ), '0')
    return rank == '0'


def summaries(found: Iterable[tuple[Source, Report]]) -> Iterator[str]:
    """Yield a line per phase: how many images and annotations of its data sets are used."""
    for phase, group in groupby(
        ((source, report) for source, report in found if source.counts),
        lambda one: one[0].phase,
    ):
        reports = [report for _, report in group]
        total = reports[0]._replace(
            **{
                name: sum(getattr(report, name) for report in reports)
                for name in ('images', 'images_kept', 'annotations', 'annotations_kept')
            }
        )
        yield total.summary(phase)


def _check_classes_of_sets(cfg: Any, phases: Sequence[str]) -> None:
    """Compare the classes of the data sets that labels pass between."""
    named = []
    for phase in dict.fromkeys(('train', *phases)):
        loader = cfg.get(f'{phase}_dataloader') or {}
        for path, dataset in datasets_of(loader.get('dataset'), f'{phase}_dataloader.dataset'):
            require_types(path, dataset)
            classes = classes_of(dataset, class_of(dataset), path)
            if classes is not None:
                named.append((path, classes))
    if named:
        check_class_order(named[0], named[1:])


def _check_training(found: list[tuple[Source, Report]]) -> None:
    trained = [report for source, report in found if TRAIN in source.use.roles]
    if trained and not sum(report.annotations_kept for report in trained):
        report = trained[0]
        raise InputError(
            f'{report.use.setting} {report.path} has no annotation to train on'
            + (f', nor have the {len(trained) - 1} other files' if len(trained) > 1 else '')
            + ': give files with annotations'
        )


def check_source(found: Annotations, source: Source, decode: bool = False) -> Report:
    """Judge a file for one use, with its images."""
    report = found.report(source.use)
    if source.scale is not None:
        report.findings.extend(strips(found, source.scale))
    names = [name for name in found.names if isinstance(name, str)]
    lost = any(finding.kind == 'image-lost' for finding in report.findings)
    loads = source.oriented is not None and source.use.images is not None
    if loads and not lost and len(names) == len(found.names):
        report.findings.extend(
            check_images(
                source.use.images,
                names,
                found.sizes,
                source.oriented,
                decode,
                lambda items: progress(items, 'images') if decode else items,
            )
        )
    return report


def strips(found: Annotations, scale: Sequence[float]) -> Iterator[Finding]:
    """Yield the images of which mmdet's Resize leaves no pixel of a side."""
    width, height = found.sizes.T
    with np.errstate(invalid='ignore', divide='ignore'):
        longer, shorter = np.maximum(width, height), np.minimum(width, height)
        factor = np.minimum(max(scale) / longer, min(scale) / shorter)
        narrow = np.flatnonzero((shorter > 0) & (shorter * factor + 0.5 < 1))
    if len(narrow):
        yield Finding(
            'image-strip',
            f'{len(narrow):,} of {len(width):,} images are so narrow that resizing to '
            f'{scale[0]:g} x {scale[1]:g} leaves no pixel of a side',
            tuple(f'{found.names[i]}, {width[i]:g} x {height[i]:g}' for i in narrow[:3]),
            True,
            'cut them into parts or remove them',
            narrow,
        )
