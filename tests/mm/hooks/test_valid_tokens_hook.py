import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn
from torch.utils.data import Dataset

from slab_det.layers import PRepBN, set_valid_tokens
from slab_det.layers.padding import valid_rows
from slab_det.mm.hooks import PRepBNHook, ValidTokensHook
from tests.mm.tiny_runner import Count, PlainModel

SIZES = [(8, 6), (4, 8), (8, 8), (8, 8)]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    set_valid_tokens(None)


class Images(Dataset):
    """Images of ones times their number, of several sizes."""

    metainfo = dict(classes=('a',))
    meta = ('img_shape',)

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        shape = dict(img_shape=SIZES[index]) if self.meta else {}
        return dict(
            inputs=torch.full((3, *SIZES[index]), index + 1.0),
            data_samples=DetDataSample(metainfo=shape),
        )


class WithoutShape(Images):
    meta = ()


class Pixels(BaseModel):
    """A norm of pixels; notes what it is told of each batch."""

    def __init__(self, norm=PRepBN):
        super().__init__(data_preprocessor=DetDataPreprocessor(pad_size_divisor=4))
        self.norm = norm(3)
        self.last = nn.Linear(3, 1)
        self.counted = []
        self.running = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = inputs.permute(0, 2, 3, 1)
        rows = valid_rows(x)
        self.counted.append((mode, None if rows is None else rows.numel()))
        x = self.last(self.norm(x.flatten(1, 2)))
        if mode == 'loss':
            self.running.append(
                self.norm.repbn.bn.running_mean.clone() if isinstance(self.norm, PRepBN) else None
            )
            return dict(loss=x.square().mean())
        return [x]


@pytest.fixture
def make_run(make_runner):

    def build(model, hooks, data=Images, **kwargs):
        return make_runner(
            [PRepBNHook(allow_missing=True), *hooks],
            model,
            data=data(),
            sampler='DefaultSampler',
            loader=dict(sampler=dict(type='DefaultSampler', shuffle=False)),
            **kwargs,
        )

    return build


@pytest.mark.parametrize('by_epoch', [True, False])
def test_statistics_count_the_pixels_of_the_images(make_run, by_epoch):
    model = Pixels()
    make_run(model, [ValidTokensHook()], by_epoch=by_epoch, length=1 if by_epoch else 2).train()
    # The first two images in one batch of 8x8; the last two fill theirs.
    assert model.counted == [('loss', 48 + 32), ('loss', None)]
    mean = 0.1 * (1 * 48 + 2 * 32) / (48 + 32)
    torch.testing.assert_close(model.running[0], torch.full((3,), mean))
    torch.testing.assert_close(model.running[1], torch.full((3,), 0.9 * mean + 0.1 * 3.5))


def test_without_the_hook_padding_counts(make_run):
    model = Pixels()
    make_run(model, [], length=1).train()
    torch.testing.assert_close(
        model.running[0], torch.full((3,), 0.1 * (1 * 48 + 2 * 32) / (2 * 64))
    )


def test_nothing_is_told_in_validation_nor_after_training(make_run):
    model = Pixels()
    runner = make_run(model, [ValidTokensHook()], length=2)
    val = dict(
        dataset=Images(),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=pseudo_collate,
        batch_size=2,
        num_workers=0,
    )
    runner._val_dataloader, runner._val_evaluator = val, Evaluator(Count())
    runner._val_loop = dict()
    runner.train()
    assert [count for mode, count in model.counted if mode == 'predict'] == [None] * 4
    assert [count for mode, count in model.counted if mode == 'loss'] == [80, None] * 2
    model.train()
    model.data_preprocessor(dict(inputs=[torch.zeros(3, 4, 4)], data_samples=[DetDataSample()]))
    assert valid_rows(torch.zeros(1, 7, 3)) is None


def test_nothing_is_left_for_a_validation_behind_a_padded_batch(make_run):
    model = Pixels()
    runner = make_run(model, [ValidTokensHook()], by_epoch=False, length=1)
    runner._val_dataloader = dict(
        dataset=Images(),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=pseudo_collate,
        batch_size=2,
        num_workers=0,
    )
    runner._val_evaluator, runner._val_loop = Evaluator(Count()), dict()
    runner.train()
    assert model.counted == [('loss', 80), ('predict', None), ('predict', None)]


def test_batches_that_do_not_say_the_size_of_their_images_are_refused(make_run):
    with pytest.raises(ValueError, match="add 'img_shape' to the meta_keys of PackDetInputs"):
        make_run(Pixels(), [ValidTokensHook()], data=WithoutShape, length=1).train()


def test_model_without_such_norms_is_left_alone(make_run, make_runner):
    make_run(Pixels(nn.LayerNorm), [ValidTokensHook()], data=WithoutShape, length=1).train()
    make_runner([ValidTokensHook()], PlainModel(), length=1).train()


class Wrapper(nn.Module):
    """Looks like DistributedDataParallel to mmengine."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def train_step(self, *args, **kwargs):
        return self.module.train_step(*args, **kwargs)


def test_wrapped_model(make_run, monkeypatch):
    monkeypatch.setitem(MODEL_WRAPPERS._module_dict, 'Wrapper', Wrapper)
    model = Pixels()
    make_run(Wrapper(model), [ValidTokensHook()], length=1).train()
    assert model.counted == [('loss', 80), ('loss', None)]
