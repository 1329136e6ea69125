"""Images for the calibration of norms, and how far it is."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank, get_world_size, is_main_process
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from slab_det.errors import InputError
from slab_det.progress import progress
from slab_det.values import check_count, check_type


def images_as_tested(
    train_dataloader: Mapping[str, Any] | None, test_dataloader: Mapping[str, Any] | None
) -> Dataset:
    """Return the data set of ``train_dataloader`` with the pipeline of ``test_dataloader``.

    The data sets inside wrappers (``RepeatDataset``, ``MultiImageMixDataset``) are taken, each
    image once; several data sets follow each other. Both arguments are configs of data loaders.

    Raises:
        InputError: an argument is not a config, or names no data set.
    """
    for name, loader in (
        ('train_dataloader', train_dataloader),
        ('test_dataloader', test_dataloader),
    ):
        if not isinstance(loader, Mapping):
            raise InputError(
                f'{name} is {type(loader).__name__} and not a config, so that the images to '
                'calibrate with cannot be found: make it one, or (in BNCalibrationHook) give '
                'them as dataset=dict(...), with the pipeline of the test.'
            )
    pipeline = next(_plain(test_dataloader['dataset']), {}).get('pipeline')
    configs = list(_plain(train_dataloader['dataset']))
    if pipeline is None or not configs:
        raise InputError(
            'the data loaders name no data set with a pipeline: give the images to '
            'calibrate with as dataset=dict(...).'
        )
    parts = [
        DATASETS.build({**config, 'pipeline': pipeline, 'test_mode': True}) for config in configs
    ]
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def check_dataset(dataset: Any) -> None:
    """Check that ``dataset`` is a data set, whose samples have an index, or the config of one.

    Raises:
        InputTypeError: it is something else, such as the name of a folder or the config of a data
            loader.
    """
    fits = (
        'type' in dataset
        if isinstance(dataset, Mapping)
        else hasattr(dataset, '__len__')
        and hasattr(dataset, '__getitem__')
        and not isinstance(dataset, (str, bytes))
    )
    check_type(
        'dataset',
        dataset,
        fits,
        'a data set: give one, or the config of one, such as '
        "dict(type='CocoDataset', ann_file=..., pipeline=...)",
    )


def calibration_loader(dataset: Any, num_images: int, num_workers: int = 0) -> DataLoader:
    """Return a loader of this process's share of ``num_images`` images, one a batch, that are
    spread evenly over ``dataset``, all of them where it has fewer.

    It draws nothing from the random numbers of training.

    Raises:
        InputError: ``num_images`` is not positive, or the data set is empty.
    """
    check_count('num_images', num_images, 1)
    if not len(dataset):
        raise InputError('dataset has no images: calibrate over at least one.')
    count = min(num_images, len(dataset))
    chosen = ((np.arange(count) + 0.5) * len(dataset) / count).astype(int).tolist()
    mine = chosen[get_rank() :: get_world_size()]
    return DataLoader(
        Subset(dataset, mine),
        batch_size=1,
        num_workers=num_workers if mine else 0,
        persistent_workers=bool(num_workers and mine),
        collate_fn=pseudo_collate,
        generator=torch.Generator().manual_seed(0),
    )


def progress_bar(batches: DataLoader, number: int, title: str = 'calibration') -> Iterable[Any]:
    """Return ``batches``, of pass ``number``; the first process shows how far ``title`` is."""
    return progress(batches, f'{title}, pass {number}') if is_main_process() else batches


def _plain(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the configs of the data sets inside all wrappers."""
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _plain(part)
    elif isinstance(node, Mapping):
        inner = [node[key] for key in ('dataset', 'datasets') if key in node]
        if inner:
            yield from _plain(inner)
        elif 'pipeline' in node:
            yield node
