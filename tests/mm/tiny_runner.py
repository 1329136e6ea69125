"""A tiny model with PRepBN and its data, for the tests of the hooks."""

import random

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from slab_det.layers import PRepBN

CHANNELS = 6


class Numbers(Dataset):
    """``length`` samples of 4 tokens; an augmentation draws from all three generators."""

    metainfo = dict(classes=('a',))

    def __init__(self, length=8, augment=False):
        self.length = length
        self.augment = augment

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(int(index))
        x = torch.randn(4, CHANNELS, generator=generator)
        if self.augment:
            x = x + torch.randn(1) + float(np.random.rand()) + random.random()
        return dict(inputs=x, index=index)


class TinyModel(BaseModel):
    """Two PRepBN; notes the ratio that each forward pass sees."""

    def __init__(self, dropout=0.0, scale=1.0):
        super().__init__()
        self.first = nn.Linear(CHANNELS, CHANNELS)
        self.norm1 = PRepBN(CHANNELS)
        self.norm2 = PRepBN(CHANNELS)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(CHANNELS, 1)
        self.scale = scale
        self.seen = dict(loss=[], predict=[])

    def forward(self, inputs, index=None, mode='tensor'):
        x = torch.stack(inputs) * self.scale
        self.seen[mode].append((float(self.norm1.ratio), float(self.norm2.ratio)))
        self.phase = (self.norm1._phase, self.norm2._phase)
        x = self.last(self.drop(self.norm2(self.norm1(self.first(x)))))
        return dict(loss=x.square().mean()) if mode == 'loss' else [x]


class PlainModel(TinyModel):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.norm2 = nn.LayerNorm(CHANNELS)

    def forward(self, inputs, index=None, mode='tensor'):
        x = self.last(self.norm2(self.norm1(self.first(torch.stack(inputs)))))
        return dict(loss=x.square().mean()) if mode == 'loss' else [x]


class Count(BaseMetric):
    """Counts the evaluated samples."""

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(samples=sum(results))


def line(end, length, begin=0, start=1.0, stop=0.0):
    """The linear schedule, by its formula."""
    return [
        start + (stop - start) * min(max((t - begin) / (end - begin), 0), 1) for t in range(length)
    ]


def ratios(runner):
    """The ratio of every training forward pass; both norms must agree."""
    pairs = runner.model.seen['loss']
    assert all(a == b for a, b in pairs)
    return [a for a, _ in pairs]
