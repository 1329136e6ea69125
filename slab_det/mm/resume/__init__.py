"""Exact resumption: a training that goes on from a checkpoint repeats the uninterrupted one.

The package knows nothing of SLAB, and could be a project of its own; of slab_det it uses the class
of errors and ``slab_det.mm.model``. It replaces these parts of mmengine (0.10):

- ``Runner.save_checkpoint`` keeps no state of the random-number generators and no gradients that
  wait for an update: ``RandomStateHook`` adds both to the checkpoint, under ``random_states``, and
  puts them back (``random_state_hook``, ``random_states``);
- ``EpochBasedTrainLoop`` begins an epoch again that a checkpoint has cut: the sampler leaves out
  what was trained on (``DrawSampler`` of ``sample_order``), and ``run_iter`` of the loop is
  replaced for this epoch, so that batches are numbered on;
- ``IterBasedTrainLoop`` reads the past batches to skip them, and its iterator does not know in
  which pass it is: ``EndlessBatches`` takes the place of ``dataloader_iterator``;
- ``worker_init_fn`` seeds a worker of the data loader, whose samples then depend on what it did
  before: ``ReseededDataset`` seeds each sample.

The weights, the optimizer, the schedulers, the counters and the history of the log are resumed by
mmengine itself.
"""

from .random_state_hook import RandomStateHook

__all__ = ['RandomStateHook']
