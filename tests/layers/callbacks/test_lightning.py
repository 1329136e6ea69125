import pytest
import torch
from torch import nn

from slab_det.errors import InputError
from slab_det.layers import PRepBN

pytest.importorskip('lightning')
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from slab_det.layers.callbacks.lightning import PRepBNCallback

STEPS, END = 10, 8


class Module(LightningModule):
    """Notes the ratio that each training step runs at."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), PRepBN(6), nn.Linear(6, 1))
        self.ratios = []

    def training_step(self, batch, batch_idx):
        self.ratios.append(float(self.net[1].ratio))
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(folder, module, callback, ckpt_path=None, batch=4, **options):
    loader = torch.utils.data.DataLoader(
        torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), batch_size=batch
    )
    checkpoints = ModelCheckpoint(folder, '{step}', every_n_train_steps=5, save_top_k=-1)
    trainer = Trainer(
        **{'max_epochs': 2, **options},
        callbacks=[callback, checkpoints],
        accelerator='cpu',
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer


def line(begin=0, start=1.0):
    """The linear fall by hand."""
    return [max(start * (1 - t / END), 0.0) for t in range(begin, STEPS)]


@pytest.mark.parametrize('options', [{}, dict(max_epochs=-1, max_steps=STEPS)])
def test_the_ratio_falls_once_per_step(tmp_path, options):
    module = Module()
    trainer = fit(tmp_path, module, PRepBNCallback(end=0.8), **options)
    assert module.ratios == pytest.approx(line())
    assert float(module.net[1].ratio) == 0
    assert float(trainer.callback_metrics['prepbn_ratio']) == 0


def test_gradient_accumulation_does_not_move_it(tmp_path):
    module = Module()
    fit(tmp_path, module, PRepBNCallback(end=0.8), batch=2, accumulate_grad_batches=2)
    assert module.ratios == pytest.approx([ratio for ratio in line() for _ in range(2)])


def test_a_resumed_training_goes_on_along_the_same_line(tmp_path):
    whole, resumed = Module(), Module()
    whole.net[1].set_ratio(0.9)
    fit(tmp_path, whole, PRepBNCallback(end=0.8))
    fit(tmp_path, resumed, PRepBNCallback(end=0.8), ckpt_path=tmp_path / 'step=5.ckpt')
    assert whole.ratios == pytest.approx(line(start=0.9))
    assert resumed.ratios == pytest.approx(line(5, start=0.9))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value)


def test_another_length_at_resumption_is_refused(tmp_path):
    fit(tmp_path, Module(), PRepBNCallback())
    with pytest.raises(InputError, match='total_iters=15 differs from total_iters=10'):
        fit(tmp_path, Module(), PRepBNCallback(), tmp_path / 'step=5.ckpt', max_epochs=3)


def test_a_checkpoint_without_the_callback_needs_a_start(tmp_path):
    fit(tmp_path, Module(), ModelCheckpoint(tmp_path / 'other'))
    with pytest.raises(InputError, match='start_ratio=None: the training resumes at iteration 5'):
        fit(tmp_path, Module(), PRepBNCallback(), tmp_path / 'step=5.ckpt')


def test_a_training_without_an_end_is_refused(tmp_path):
    with pytest.raises(InputError, match='the trainer has no end: set its max_epochs or max_steps'):
        fit(tmp_path, Module(), PRepBNCallback(), max_epochs=-1)
