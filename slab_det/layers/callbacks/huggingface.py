"""The ratio of PRepBN under the ``Trainer`` of ``transformers``."""

from typing import Any

from transformers.trainer_callback import ExportableState, TrainerCallback

from . import scheduler_at


class PRepBNCallback(TrainerCallback, ExportableState):
    """Sets the ratio once per update of the weights, up to the trainer's ``max_steps``.

    ``Trainer(model, args, callbacks=[PRepBNCallback(end=0.8)])`` is all that is needed. The ratio
    is logged as ``prepbn_ratio``. It is a function of ``global_step``, so that gradient
    accumulation does not move it; what it started from is in ``trainer_state.json``, and
    ``resume_from_checkpoint`` goes on along the same line.

    Args:
        **schedule: the arguments of :class:`~slab_det.layers.PRepBNScheduler` besides ``model`` and
            ``total_iters``, checked when training begins.

    Raises:
        InputError: when training begins; see :class:`~slab_det.layers.PRepBNScheduler` and
            :func:`~slab_det.layers.callbacks.scheduler_at`.
    """

    def __init__(self, **schedule: Any) -> None:
        self.schedule = schedule
        self.saved: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        return dict(args=self.schedule, attributes=dict(saved=self.saved))

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        # Saving looks the entry up, which a checkpoint from before this callback lacks.
        entry = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        saved = entry['attributes']['saved'] if state.global_step else None
        self.scheduler = scheduler_at(
            model, state.max_steps, state.global_step, saved, self.schedule
        )
        self.saved = self.scheduler.state_dict()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.scheduler.set_iteration(state.global_step)
        self.saved = self.scheduler.state_dict()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        # The trainer has put a copy of the logs into the history already.
        for entry in (logs, state.log_history[-1]):
            entry['prepbn_ratio'] = self.scheduler.get_last_ratio()
