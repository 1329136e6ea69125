import copy
import pickle

import pytest
from mmengine.dataset import InfiniteSampler, pseudo_collate
from torch.utils.data import DataLoader

from slab_det.mm.resume.sample_order import (
    Draw,
    DrawSampler,
    EndlessBatches,
    ReseededDataset,
    install,
)
from tests.mm.tiny_runner import Numbers


def make_loader(seed=7, length=8, **kwargs):
    loader = DataLoader(
        Numbers(length, augment=True), batch_size=3, collate_fn=pseudo_collate, **kwargs
    )
    return loader, install(loader, seed)


def values(batch):
    return [x.tolist() for x in batch['inputs']]


def epochs(loader, sampler, number=2, skip=0):
    out = []
    for epoch in range(number):
        sampler.begin(epoch, skip if epoch == 0 else 0)
        out += [values(batch) for batch in loader]
    return out


@pytest.fixture(scope='module')
def expected():
    return epochs(*make_loader(shuffle=True))


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(num_workers=1),
        dict(num_workers=3),
        dict(num_workers=2, persistent_workers=True),
        pytest.param(
            dict(num_workers=2, persistent_workers=True, multiprocessing_context='spawn'),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_samples_do_not_depend_on_the_workers(expected, kwargs):
    assert epochs(*make_loader(shuffle=True, **kwargs)) == expected


def test_samples_differ_between_epochs_seeds_and_repetitions(expected):
    other = epochs(*make_loader(seed=8, shuffle=True))
    flat = [sample[0][0] for run in (expected, other) for batch in run for sample in batch]
    assert len(set(flat)) == len(flat) == 32
    dataset = ReseededDataset(Numbers(augment=True), 0)
    draws = [dataset[Draw(0, position, 5)]['inputs'][0, 0].item() for position in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('skip', [1, 2, 3])
def test_skipping_leaves_the_rest_as_it_was(expected, num_workers, skip):
    loader, sampler = make_loader(shuffle=True, num_workers=num_workers)
    assert epochs(loader, sampler, skip=skip) == expected[skip:]


def test_skipped_samples_are_not_read():
    read = []

    class Counting(Numbers):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    loader = DataLoader(Counting(), batch_size=2, collate_fn=pseudo_collate)
    sampler = install(loader, 0)
    sampler.begin(0, 3)
    assert len(list(loader)) == 1
    assert read == [6, 7]
    assert len(loader) == 4


@pytest.mark.parametrize('skip', [0, 2, 3, 5, 7])
@pytest.mark.parametrize('num_workers', [0, 2])
def test_endless_batches_go_on_across_passes(skip, num_workers):
    whole = EndlessBatches(*make_loader(shuffle=True))
    expected = [values(next(whole)) for _ in range(9)]
    assert (whole.epoch, whole.batches) == (2, 3)
    rest = EndlessBatches(*make_loader(shuffle=True, num_workers=num_workers), skip=skip)
    assert [values(next(rest)) for _ in range(9 - skip)] == expected[skip:]
    assert (rest.epoch, rest.batches) == (2, 3)


def test_endless_batches_of_an_endless_sampler():
    def make(skip=0):
        data = Numbers(5, augment=True)
        loader = DataLoader(
            data, batch_size=2, sampler=InfiniteSampler(data, seed=3), collate_fn=pseudo_collate
        )
        return EndlessBatches(loader, install(loader, 0), skip=skip)

    whole, rest = make(), make(skip=6)
    expected = [next(whole) for _ in range(8)]
    got = [next(rest) for _ in range(2)]
    assert [b['index'] for b in got] == [b['index'] for b in expected[6:]]
    assert [values(b) for b in got] == [values(b) for b in expected[6:]]


def test_loader_without_batches_says_so():
    loader = DataLoader(Numbers(2), batch_size=3, drop_last=True)
    with pytest.raises(ValueError, match='no batch: lower its batch_size'):
        next(EndlessBatches(loader, install(loader, 0)))


def test_wrapped_dataset_passes_for_the_dataset():
    data = Numbers()
    wrapped = ReseededDataset(data, 0)
    assert isinstance(wrapped, Numbers) and len(wrapped) == 8
    assert wrapped.metainfo is data.metainfo
    wrapped.pipeline = 'new'
    assert data.pipeline == 'new'
    assert wrapped[3]['inputs'].equal(data[3]['inputs'])
    again = pickle.loads(pickle.dumps(wrapped))
    assert type(again) is ReseededDataset and again.pipeline == 'new'
    assert copy.deepcopy(dict(dataset=wrapped))['dataset'] is wrapped
    with pytest.raises(AttributeError, match='nothing'):
        _ = wrapped.nothing


def test_installing_twice_wraps_once():
    loader, _ = make_loader()
    sampler = install(loader, 1)
    assert type(loader.dataset) is ReseededDataset
    assert type(loader.dataset._dataset) is Numbers
    assert loader.batch_sampler is sampler and not isinstance(sampler._sampler, DrawSampler)


def test_loader_that_does_not_batch():
    loader = DataLoader(Numbers(4, augment=True), batch_size=None, shuffle=True)
    sampler = install(loader, 0)

    def run(skip):
        sampler.begin(0, skip)
        return [sample['inputs'].tolist() for sample in loader]

    assert len(run(0)) == 4 and run(2) == run(0)[2:]
