"""Exact resumption: training resumed from a checkpoint repeats the uninterrupted run.

The package does not depend on SLAB and could be a separate project; of slab_det it uses the error
classes and ``slab_det.mm.model``. It replaces these parts of mmengine (0.10):

- ``Runner.save_checkpoint`` saves neither the states of the random-number generators nor gradients
  that await an update: ``RandomStateHook`` adds both to the checkpoint, under ``random_states``,
  and restores them (``random_state_hook``, ``random_states``);
- ``EpochBasedTrainLoop`` restarts an epoch that a checkpoint interrupted: the sampler omits what
  was trained on (``DrawSampler`` of ``sample_order``), and ``run_iter`` of the loop is replaced for
  this epoch, so that the numbering of batches continues;
- ``IterBasedTrainLoop`` reads the past batches to skip them, and its iterator does not know which
  pass it is in: ``EndlessBatches`` takes the place of ``dataloader_iterator``;
- ``worker_init_fn`` seeds a data-loader worker, whose samples then depend on its history:
  ``ReseededDataset`` seeds each sample.

The weights, the optimizer, the schedulers, the counters and the history of the log are resumed by
mmengine itself.
"""

from .random_state_hook import RandomStateHook

__all__ = ['RandomStateHook']
