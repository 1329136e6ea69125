"""Which sample is drawn when, and the random numbers that its augmentation sees.

A sampler wrapped in :class:`DrawSampler` hands out :class:`Draw` s instead of indices, and the
dataset wrapped in :class:`ReseededDataset` seeds the generators from them. So a sample depends
neither on the worker that prepares it nor on what that worker did before, with any number of
workers, forked, spawned or persistent, and training can begin in the middle of an epoch.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from slab_det.errors import InputError

from .random_states import seeded


class Draw(NamedTuple):
    """One sample: ``index`` of the dataset, the ``position``-th of the pass ``epoch``."""

    epoch: int
    position: int
    index: Any


class ReseededDataset(Dataset):
    """Stands in for ``dataset``; a :class:`Draw` is prepared under its own random numbers.

    Everything else, types and attributes included, is the dataset's own, since hooks and
    samplers ask for them and some hooks replace them (mmdet's ``PipelineSwitchHook``).
    Transforms that remember earlier samples (mmdet's ``CachedMosaic``) still see those of their
    worker.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        vars(self).update(_dataset=dataset, _seed=seed)

    def __getitem__(self, draw: Any) -> Any:
        if not isinstance(draw, Draw):
            return self._dataset[draw]
        index = np.ravel(draw.index).tolist()  # some samplers draw tuples
        with seeded([self._seed, draw.epoch, draw.position, *index]):
            return self._dataset[draw.index]

    def __getitems__(self, draws: list[Any]) -> list[Any]:
        return [self[draw] for draw in draws]

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def __class__(self):
        return type(self._dataset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)

    def __reduce__(self):
        return ReseededDataset, (self._dataset, self._seed)

    def __deepcopy__(self, memo: dict) -> 'ReseededDataset':
        # mmengine copies the configuration of a data loader, not the data in it.
        return self


class DrawSampler:
    """Hands out the batches (or single indices) of ``sampler`` as :class:`Draw` s.

    Args:
        sampler: a batch sampler, or a sampler if the loader does not batch.
        batched: which of both.
        seed: decides the order of samplers with a ``generator``, torch's own, in each epoch.
    """

    def __init__(self, sampler: Any, batched: bool, seed: int) -> None:
        self._sampler = sampler
        self._batched = batched
        self._seed = seed
        self._epoch = 0
        #: number of batches that are still to be left out.
        self.to_skip = 0

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Let the next pass be ``epoch``, without its first ``skip`` batches; if it ends before,
        the rest is left out of the passes that follow."""
        self._epoch = epoch
        self.to_skip = skip

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the sampler that shuffles, as mmengine does."""
        sampler = getattr(self._sampler, 'sampler', self._sampler)
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        # A generator: torch makes two iterators of a pass and uses the second only.
        shuffler = getattr(self._sampler, 'sampler', self._sampler)
        if hasattr(shuffler, 'generator'):
            words = np.random.SeedSequence([self._seed, self._epoch]).generate_state(2).tolist()
            shuffler.generator = torch.Generator().manual_seed(words[0] << 32 | words[1])
        position = 0
        for drawn in self._sampler:
            indices = drawn if self._batched else [drawn]
            draws = [
                Draw(self._epoch, position + offset, index) for offset, index in enumerate(indices)
            ]
            position += len(draws)
            if self.to_skip:
                self.to_skip -= 1
            else:
                yield draws if self._batched else draws[0]

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name == '_sampler':  # not set yet, while a copy is made
            raise AttributeError(name)
        return getattr(self._sampler, name)


def install(loader: DataLoader, seed: int) -> DrawSampler:
    """Wrap dataset and sampler of ``loader`` in place and return the sampler."""
    dataset = loader.dataset
    if type(dataset) is not ReseededDataset:
        dataset = ReseededDataset(dataset, seed)
    batched = loader.batch_sampler is not None
    name = 'batch_sampler' if batched else 'sampler'
    sampler = getattr(loader, name)
    if isinstance(sampler, DrawSampler):  # a loader that an earlier runner has used
        sampler = sampler._sampler
    sampler = DrawSampler(sampler, batched, seed)
    # DataLoader refuses new values for these by setattr, lest its checks be evaded; the
    # wrappers pass every one of them. Persistent workers would keep the old dataset.
    vars(loader).update({'dataset': dataset, name: sampler, '_iterator': None})
    if loader.generator is None:
        # Each iterator draws a seed for its workers, by default from the generator that the
        # model uses; one more iterator after a resumption would shift its numbers.
        loader.generator = torch.Generator().manual_seed(seed)
    return sampler


class EndlessBatches:
    """The batches of ``loader``, pass after pass, for loops that count iterations.

    Args:
        loader: a loader on which :func:`install` was called.
        sampler: what it returned.
        epoch: the first pass.
        skip: number of batches to leave out, unread, from its beginning.
    """

    def __init__(
        self, loader: DataLoader, sampler: DrawSampler, epoch: int = 0, skip: int = 0
    ) -> None:
        self._loader = loader
        self._sampler = sampler
        self._iterator = None
        self.epoch = epoch
        #: number of batches of this pass that were handed out or left out.
        self.batches = skip
        sampler.begin(epoch, skip)

    def __iter__(self) -> 'EndlessBatches':
        return self

    def __next__(self) -> Any:
        while True:
            if self._iterator is None:
                # As late as this: hooks set the sampler's epoch when training begins.
                self._sampler.set_epoch(self.epoch)
                self._iterator = iter(self._loader)
            try:
                batch = next(self._iterator)
            except StopIteration:
                if not self.batches:
                    raise InputError(
                        'the training data loader yields no batch: lower its batch_size or set '
                        'drop_last=False.'
                    ) from None
                self._iterator = None
                self.epoch += 1
                self.batches = self._sampler.to_skip
                self._sampler.begin(self.epoch, self.batches)
            else:
                self.batches += 1
                return batch


class Placeholders:
    """Answers a resuming loop that skips the batches of the past, without reading any."""

    def __iter__(self) -> 'Placeholders':
        return self

    def __next__(self) -> None:
        return None

    def skip_iter(self, num_iters: int) -> None:
        """What the loop of a maintained mmengine fork calls instead."""
