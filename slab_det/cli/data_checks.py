"""The data sets of a config: files, annotations, classes and images, before work begins."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from slab_det.errors import InputError
from slab_det.mm.config_walk import kind_of, walk_dicts
from slab_det.mm.data import (
    Annotations,
    Finding,
    Report,
    Use,
    check_class_order,
    classes_of,
    read_annotations,
)
from slab_det.mm.data.annotations import not_in
from slab_det.mm.data.columns import is_number
from slab_det.mm.data.findings import require_sound, warnings_of
from slab_det.mm.data.images import check_images
from slab_det.mm.data.rules import EVAL, EVAL_MASKS, READ, TRAIN, TRAIN_MASKS
from slab_det.progress import progress

PHASES = ('train', 'val', 'test')

#: What the settings of a data set or metric are, where they are not None.
_TYPES: dict[str, tuple[type, ...]] = dict(
    data_root=(str,),
    ann_file=(str,),
    data_prefix=(dict,),
    metainfo=(dict,),
    filter_cfg=(dict,),
    backend_args=(dict,),
    pipeline=(list, tuple),
    indices=(int, list, tuple),
    metric=(str, list, tuple),
)


class Source(NamedTuple):
    """A file of annotations in a config.

    Attributes:
        phase: ``train``, ``val`` or ``test``.
        path: the file.
        use: how it is read.
        oriented: EXIF's orientation is applied to its images; None where they are not loaded from
            files.
        counts: it is a data set's, and not an evaluator's.
        scale: into which its images are resized with their ratio of sides, where that is known.
    """

    phase: str
    path: str
    use: Use
    oriented: bool | None
    counts: bool
    scale: tuple[float, ...] | None = None


def datasets_of(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Yield (setting, config) of every data set that reads an annotation file, in any wrapper."""
    if isinstance(node, dict):
        if node.get('ann_file'):
            yield path, node
        else:
            yield from datasets_of(node.get('dataset'), f'{path}.dataset')
            yield from datasets_of(node.get('datasets'), f'{path}.datasets')
    elif isinstance(node, (list, tuple)):
        for index, one in enumerate(node):
            yield from datasets_of(one, f'{path}.{index}')


def metrics_of(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Yield (setting, config) of every metric of an evaluator."""
    if isinstance(node, (list, tuple)):
        for index, one in enumerate(node):
            yield from metrics_of(one, f'{path}.{index}')
    elif isinstance(node, dict):
        if node.get('metrics') is not None:
            yield from metrics_of(node['metrics'], f'{path}.metrics')
        else:
            yield path, node


def class_of(dataset: dict) -> Any:
    """Return the class of a data set's config, None where it is not registered."""
    from mmdet.registry import DATASETS

    kind = dataset.get('type')
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def first_dataset(
    cfg: Any, phases: Sequence[str] = ('test', 'val', 'train')
) -> tuple[dict, tuple[str, ...]]:
    """Return the config of the first data set with known classes, and these; ``({}, ())`` without
    one.

    Raises:
        InputError: its classes are not a list of names.
    """
    for phase in phases:
        path = f'{phase}_dataloader.dataset'
        for setting, dataset in datasets_of(
            (cfg.get(f'{phase}_dataloader') or {}).get('dataset'), path
        ):
            classes = classes_of(dataset, class_of(dataset), setting)
            if classes:
                return dataset, classes
    return {}, ()


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


def file_source(path: str, images: str | None, classes: Sequence[str] | None) -> Source:
    """Return the source that a file by itself is, read for everything."""
    use = Use(
        classes=None if classes is None else tuple(classes),
        classes_setting='--classes',
        images=images,
    )
    return Source('file', path, use, True, True)


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


def sources_of(cfg: Any, phases: Sequence[str], absent_ok: bool = False) -> Iterator[Source]:
    """Yield every annotation file in COCO's format of the phases; files and folders are there.

    Raises:
        InputError: a file or folder is missing, unless ``absent_ok``.
    """
    for phase in phases:
        metrics = []
        if phase != 'train':
            metrics = list(metrics_of(cfg.get(f'{phase}_evaluator'), f'{phase}_evaluator'))
        # Detections that are only written need no truth, which COCO does not publish for test-dev.
        annotated = not metrics or not all(metric.get('format_only') for _, metric in metrics)
        loader = cfg.get(f'{phase}_dataloader') or {}
        sets = list(datasets_of(loader.get('dataset'), f'{phase}_dataloader.dataset'))
        for path, dataset in sets:
            source = _of_dataset(phase, path, dataset, annotated, absent_ok)
            if source is not None:
                yield source
        for number, (path, metric) in enumerate(metrics):
            source = _of_metric(phase, path, metric, annotated, sets, number)
            if source is not None and (os.path.isfile(source.path) or not absent_ok):
                yield source


def _indices(dataset: dict) -> list | tuple:
    indices = dataset.get('indices')
    return indices if isinstance(indices, (list, tuple)) else ()


def _require_types(
    path: str, settings: dict, types: dict[str, tuple[type, ...]] | None = None
) -> None:
    """Raise InputError where a setting is of a type that its reader does not take."""
    for name, kinds in (types or _TYPES).items():
        value = settings.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise InputError(
                f'{path}.{name} is {value!r:.60}: give '
                + ' or '.join(kind.__name__ for kind in kinds)
            )


def _of_dataset(
    phase: str, path: str, dataset: dict, annotated: bool, absent_ok: bool
) -> Source | None:
    """Return a data set's source, None where it is remote or not in COCO's format."""
    _require_types(path, dataset)
    if (
        _is_remote(dataset.get('data_root'))
        or _is_remote(dataset['ann_file'])
        or ((dataset.get('backend_args') or {}).get('backend', 'local') != 'local')
    ):
        return None
    root = dataset.get('data_root') or ''
    # mmengine joins unless a slash or a drive letter leads, as os.path.join does.
    ann_file = os.path.join(root, dataset['ann_file'])
    prefix = dataset.get('data_prefix') or {}
    _require_types(f'{path}.data_prefix', prefix, dict.fromkeys(prefix, (str,)))
    images = os.path.join(root, prefix.get('img', prefix.get('img_path', '')))
    if absent_ok:
        if not os.path.isfile(ann_file):
            return None
        images = None
    elif root and not os.path.isdir(root):
        raise InputError(
            f'{path}.data_root {root} is not a folder: put the data there, or name its place with '
            f'--cfg-options {path}.data_root=FOLDER (and likewise for the other data sets)'
        )
    if not os.path.isfile(ann_file):
        raise InputError(
            f'{path}.ann_file {ann_file} is not a file: put the annotations there, or name them '
            f'with --cfg-options {path}.ann_file=FILE'
        )
    if images and not os.path.isdir(images):
        raise InputError(
            f'{path}.data_prefix.img {images} is not a folder: put the images there, or name their '
            f'place with --cfg-options {path}.data_prefix.img=FOLDER'
        )
    panoptic = _reads_coco(dataset)
    if panoptic is None:
        _check_voc(path, dataset, ann_file, absent_ok)
        return None
    if 'img' not in prefix:
        raise InputError(
            f'{path}.data_prefix has no img, the folder of the images below data_root: set '
            f'--cfg-options {path}.data_prefix.img=FOLDER'
        )
    wrong = [one for one in _indices(dataset) if type(one) is not int]
    if wrong:
        raise InputError(f'{path}.indices holds {wrong[0]!r:.60}: give whole numbers')
    loading = _steps(dataset, 'LoadAnnotations')
    roles = {READ}
    if phase == 'train' and (loading or not dataset.get('pipeline')):
        roles.add(TRAIN)
    if any(step.get('with_mask') for step in loading):
        roles.add(TRAIN_MASKS)
    filter_cfg = (dataset.get('filter_cfg') or {}) if not dataset.get('test_mode') else {}
    min_size = filter_cfg.get('min_size', 0)
    if not is_number(min_size):
        raise InputError(f'{path}.filter_cfg.min_size is {min_size!r:.60}: give a number of pixels')
    use = Use(
        f'{path}.ann_file',
        frozenset(roles),
        classes_of(dataset, class_of(dataset), path),
        f'{path}.metainfo.classes',
        images,
        annotated,
        panoptic,
        not filter_cfg.get('filter_empty_gt', False),
        min_size,
        dataset.get('indices'),
    )
    loaders = _steps(dataset, 'LoadImageFromFile')
    oriented = None
    if loaders or not dataset.get('pipeline'):
        color = loaders[0].get('color_type', 'color') if loaders else 'color'
        oriented = color not in ('unchanged', 'color_ignore_orientation')
    scale = next(
        (step.get('scale') for step in _steps(dataset, 'Resize') if step.get('keep_ratio')), None
    )
    scale = tuple(scale) if isinstance(scale, (list, tuple)) else None
    return Source(phase, ann_file, use, oriented, True, scale)


def _check_voc(path: str, dataset: dict, ann_file: str, absent_ok: bool) -> None:
    """Raise InputError where a data set in VOC's format lacks files, or masks are asked of it."""
    from mmdet.datasets import XMLDataset

    found = class_of(dataset)
    if not isinstance(found, type) or not issubclass(found, XMLDataset):
        return
    if any(step.get('with_mask') for step in _steps(dataset, 'LoadAnnotations')):
        raise InputError(
            f"{path}.pipeline loads masks, which files in VOC's format do not have: set "
            'with_mask=False in its LoadAnnotations'
        )
    with open(ann_file, encoding='utf-8') as file:
        names = file.read().split()
    prefix = dataset.get('data_prefix') or {}
    folder = os.path.join(dataset.get('data_root') or '', prefix.get('sub_data_root', ''))
    for part, ending in (('ann_subdir', '.xml'), ('img_subdir', '.jpg')):
        default = 'Annotations' if part == 'ann_subdir' else 'JPEGImages'
        place = os.path.join(folder, dataset.get(part, default))
        lost = not_in(place, [f'{name}{ending}' for name in names]) if not absent_ok else []
        if lost:
            raise InputError(
                f'{path}.ann_file {ann_file} names {names[lost[0]]}, but {place} has no '
                f'{names[lost[0]]}{ending} ({len(lost)} of {len(names)} are not there): set '
                'data_root, data_prefix.sub_data_root or ' + part
            )


def _of_metric(
    phase, path, metric: dict, annotated: bool, sets: list, number: int
) -> Source | None:
    _require_types(path, metric)
    ann_file = metric.get('ann_file')
    kind = kind_of(metric)
    if kind == 'CocoMetric' and not ann_file and not metric.get('format_only'):
        _check_truth(path, sets)
    if kind not in ('CocoMetric', 'CocoPanopticMetric') or not ann_file or _is_remote(ann_file):
        return None
    kinds = metric.get('metric') or 'bbox'
    masks = 'segm' in ([kinds] if isinstance(kinds, str) else kinds)
    roles = {READ} | ({EVAL} if not metric.get('format_only') else set())
    setting, dataset = sets[number if number < len(sets) else 0] if sets else ('', {})
    use = Use(
        f'{path}.ann_file',
        frozenset(roles | ({EVAL_MASKS} if masks and EVAL in roles else set())),
        classes_of(dataset, class_of(dataset), setting) if dataset else None,
        f'{setting}.metainfo.classes',
        annotated=annotated,
        panoptic=kind == 'CocoPanopticMetric',
    )
    return Source(phase, ann_file, use, None, False)


def _check_truth(path: str, sets: list[tuple[str, dict]]) -> None:
    """Raise InputError where a CocoMetric without a file does not get the truth with the images."""
    for setting, dataset in sets:
        for step in _steps(dataset, 'PackDetInputs'):
            # By default mmdet packs no instances either.
            if 'instances' not in (step.get('meta_keys') or ()):
                raise InputError(
                    f'{path} has no ann_file, and PackDetInputs of {setting}.pipeline packs no '
                    "instances to compare with: set ann_file, or add 'instances' to meta_keys"
                )


def _check_classes_of_sets(cfg: Any, phases: Sequence[str]) -> None:
    """Compare the classes of the data sets that labels pass between."""
    named = []
    for phase in dict.fromkeys(('train', *phases)):
        loader = cfg.get(f'{phase}_dataloader') or {}
        for path, dataset in datasets_of(loader.get('dataset'), f'{phase}_dataloader.dataset'):
            _require_types(path, dataset)
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


def _steps(dataset: dict, name: str) -> list[dict]:
    """Return the transforms of that name in a pipeline, those inside others included."""
    return [step for _, step in walk_dicts(dataset.get('pipeline') or []) if kind_of(step) == name]


def _reads_coco(dataset: dict) -> bool | None:
    """Return whether a data set reads COCO's panoptic format, False for its plain one, None for
    neither."""
    from mmdet.datasets import CocoDataset, CocoPanopticDataset

    found = class_of(dataset)
    if (
        not isinstance(found, type)
        or not issubclass(found, CocoDataset)
        or found.load_data_list is not CocoDataset.load_data_list
    ):
        return None
    return issubclass(found, CocoPanopticDataset)


def _is_remote(path: str | None) -> bool:
    return path is not None and '://' in str(path)
