"""The ratio of PRepBN under the ``Trainer`` of Lightning."""

import math
from typing import Any

from slab_det.errors import InputError

from . import scheduler_at

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:  # the same trainer under its former name
    from pytorch_lightning import Callback


class PRepBNCallback(Callback):
    """Sets the ratio once per step of the optimizer, up to the end of the trainer's training.

    ``Trainer(callbacks=[PRepBNCallback(end=0.8)])`` is all that is needed. The ratio is logged as
    ``prepbn_ratio``. It is a function of ``trainer.global_step``, so that gradient accumulation
    does not move it; what it started from is in the checkpoint, and ``fit(ckpt_path=...)`` goes on
    along the same line.

    Args:
        **schedule: the arguments of :class:`~slab_det.layers.PRepBNScheduler` besides ``model`` and
            ``total_iters``, checked when training begins.

    Raises:
        InputError: when training begins; the trainer has no end, or see
            :class:`~slab_det.layers.PRepBNScheduler` and
            :func:`~slab_det.layers.callbacks.scheduler_at`.
    """

    def __init__(self, **schedule: Any) -> None:
        self.schedule = schedule
        self.saved: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return self.saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.saved = state_dict

    def on_train_start(self, trainer, pl_module) -> None:
        total = trainer.estimated_stepping_batches
        if not 0 < total < math.inf:
            raise InputError(
                'the ratio of PRepBN needs the length of training, but the trainer has no end: set '
                'its max_epochs or max_steps.'
            )
        saved = self.saved if trainer.global_step else None
        self.scheduler = scheduler_at(
            pl_module, int(total), trainer.global_step, saved, self.schedule
        )
        self.saved = self.scheduler.state_dict()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.log('prepbn_ratio', self.scheduler.get_last_ratio())
        self.scheduler.set_iteration(trainer.global_step)
        self.saved = self.scheduler.state_dict()
