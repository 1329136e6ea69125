"""Hook that makes a resumed run equal an uninterrupted one."""

import torch
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    broadcast_object_list,
    get_rank,
    get_world_size,
)
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from slab_det.errors import InputError
from slab_det.mm.model import optim_wrappers

from .random_states import capture_states, restore_states
from .sample_order import DrawSampler, EndlessBatches, Placeholders, ReseededDataset, install

STATE_KEY = 'random_states'


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Saves what mmengine's checkpoints lack, and puts it back when a run resumes.

    A run that was killed and resumed from any checkpoint, by epoch or by iteration, in the
    middle of an epoch or of a gradient accumulation, goes on as the uninterrupted run did:

    - the states of the random-number generators of Python, numpy and torch (and of the GPU in
      use), of every process, are restored before the first iteration;
    - validation leaves the generators as it found them, so it does not matter which of the two
      runs did it;
    - augmentation does not depend on the history of a data-loader worker: the generators are
      reseeded for each sample from seed, epoch, its position there and its index;
    - batches that were trained on are left out without being read, both in
      ``EpochBasedTrainLoop``, which would begin the epoch again, and in
      ``IterBasedTrainLoop``, which would read them all;
    - gradients that wait for the next update are saved too.

    Only resuming restores; ``load_from`` takes nothing but weights. Not covered are transforms
    that remember earlier samples, and randomness of libraries with generators of their own.
    With several processes the states of all are collected when an epoch ends, before validation,
    and after each iteration for which a ``CheckpointHook`` saves, before other hooks act on it.
    """

    # Early: the other hooks shall meet the data loader that is really used.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._loaded: dict | None = None
        self._resumed: dict | None = None
        self._sampler: DrawSampler | None = None
        self._endless: EndlessBatches | None = None
        self._skip = 0
        self._renumbered = False
        self._epoch = 0
        self._batches = 0
        self._in_training: dict | None = None  # states from before the validation that runs
        self._gathered: tuple[int, list, dict[str, Tensor]] | None = None

    # ---------------------------------------------------------------- checkpoints

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._sampler is None:
            return
        if self._endless is not None:
            epoch, batches = self._endless.epoch, self._endless.batches
        else:
            # By the end of an epoch mmengine already writes the number of the next one.
            epoch = checkpoint['meta']['epoch']
            batches = self._batches if epoch == self._epoch else 0
        states, gradients = [self._in_training or capture_states()], _pending_gradients(runner)
        if get_world_size() > 1:
            # This is called on the first process alone, too late to ask the others.
            if self._gathered is not None and self._gathered[0] == runner.iter:
                _, states, gradients = self._gathered
            else:
                runner.logger.warning(
                    'RandomStateHook: a checkpoint was saved at an unexpected moment; it holds '
                    'the random-number states of the first process only.'
                )
        checkpoint[STATE_KEY] = dict(
            states=states,
            gradients=gradients,
            epoch=epoch,
            batches=batches,
            batches_per_epoch=len(runner.train_dataloader),
            processes=get_world_size(),
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        # Whether this is a resumption shows when training begins.
        self._loaded = checkpoint.get(STATE_KEY)

    def _gather(self, runner) -> None:
        """On all processes: collect what a checkpoint needs, in case one is saved now."""
        if get_world_size() == 1 or self._sampler is None:
            return
        states = all_gather_object(self._in_training or capture_states())
        gradients = _pending_gradients(runner, fill=True)
        for gradient in gradients.values():
            # Each process holds its own share; the update takes their mean.
            all_reduce(gradient, 'mean')
        self._gathered = runner.iter, states, {k: v.cpu() for k, v in gradients.items()}

    # ---------------------------------------------------------------- training

    def before_train(self, runner) -> None:
        loop = runner.train_loop
        if isinstance(loop.dataloader.dataset, IterableDataset):
            raise InputError(
                f'RandomStateHook cannot resume {type(loop.dataloader.dataset).__name__}, an '
                'IterableDataset, where it stopped: use a dataset with an index, or remove the '
                'hook.'
            )
        seed = _common_seed(runner)
        loop.dataloader = _fresh_loader(runner, seed)
        self._sampler = install(loop.dataloader, seed)
        self._resumed = self._find_resumed(runner)
        where = self._position(runner)
        self._skip = where[1]
        self._endless = None
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = None  # lets its workers go
            self._endless = EndlessBatches(loop.dataloader, self._sampler, *where)
            loop.dataloader_iterator = self._endless
            if runner.iter > 0:
                _hold_back(loop, self._endless)

    def before_train_epoch(self, runner) -> None:
        if self._endless is None:
            self._epoch, self._batches = runner.epoch, self._skip
            self._sampler.begin(self._epoch, self._skip)
            if self._skip:
                _count_from(runner.train_loop, self._skip)
                self._renumbered, self._skip = True, 0
        if self._resumed is not None:
            restore_states(self._resumed['states'][get_rank()])
            _put_gradients(runner, self._resumed['gradients'])
            self._resumed = None

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._endless is None:
            self._batches = batch_idx + 1
        if get_world_size() > 1 and _saves_now(runner):
            self._gather(runner)

    def after_train_epoch(self, runner) -> None:
        if self._renumbered:
            del runner.train_loop.run_iter
            self._renumbered = False
        self._gather(runner)

    # ---------------------------------------------------------------- validation

    def before_val(self, runner) -> None:
        self._in_training = capture_states()
        self._gather(runner)

    def after_val(self, runner) -> None:
        restore_states(self._in_training)
        self._in_training = None

    # ---------------------------------------------------------------- resumption

    def _find_resumed(self, runner) -> dict | None:
        """Return what the checkpoint holds for this run, or None if it does not resume."""
        loaded, self._loaded = self._loaded, None
        if runner.iter == 0:
            return None
        problem = None
        if loaded is None:
            problem = 'the checkpoint was written without RandomStateHook'
        elif loaded['processes'] != get_world_size() or (len(loaded['states']) != get_world_size()):
            problem = (
                f'the checkpoint holds the states of {len(loaded["states"])} of '
                f'{loaded["processes"]} processes, and now there are {get_world_size()}'
            )
        elif loaded['batches_per_epoch'] != len(runner.train_dataloader):
            problem = (
                f'an epoch had {loaded["batches_per_epoch"]} batches and now has '
                f'{len(runner.train_dataloader)}'
            )
        if problem is not None:
            runner.logger.warning(
                f'RandomStateHook: {problem}; random numbers and the order of the data will not '
                'be those of an uninterrupted run.'
            )
            return None
        # Counted from 1, as the epochs of the log. A pass of an infinite sampler has no end.
        runner.logger.info(
            f'RandomStateHook: goes on in pass {loaded["epoch"] + 1} of the data after '
            f'{loaded["batches"]} of its batches.'
        )
        return loaded

    def _position(self, runner) -> tuple[int, int]:
        """Return the pass over the data in which the run begins, and how many of its batches are
        done."""
        if self._resumed is not None:
            return self._resumed['epoch'], self._resumed['batches']
        if hasattr(runner.train_loop, 'dataloader_iterator'):
            return 0, runner.iter
        return runner.epoch, 0


def _common_seed(runner) -> int:
    """Return the seed of the run, the same on all processes."""
    seed = [runner.seed]
    broadcast_object_list(seed)
    return seed[0]


def _fresh_loader(runner, seed: int) -> DataLoader:
    """Return the training data loader with samplers that nothing was drawn from yet.

    The runner builds its loader before it knows the seed of the run that it resumes, and an
    iteration-based loop starts its workers at once.
    """
    config, loader = runner._train_dataloader, runner.train_loop.dataloader
    if not isinstance(config, dict):
        return loader
    config = {key: value for key, value in config.items() if key != 'num_batch_per_epoch'}
    config['dataset'] = ReseededDataset(loader.dataset, seed)
    return runner.build_dataloader(config, seed=seed)


def _count_from(loop: EpochBasedTrainLoop, first: int) -> None:
    """Number the batches of this epoch from ``first``, as in the epoch that was cut."""
    run_iter = loop.run_iter
    loop.run_iter = lambda idx, data_batch: run_iter(idx + first, data_batch)


def _hold_back(loop, batches: EndlessBatches) -> None:
    """Keep ``batches`` from the loop until it has skipped what it thinks it must skip.

    Versions of mmengine skip in different ways, or not at all; the first iteration ends it.
    """

    def first_iter(_) -> None:
        del loop.run_iter
        loop.dataloader_iterator = batches
        loop.run_iter(next(batches))

    loop.dataloader_iterator = Placeholders()
    loop.run_iter = first_iter


def _saves_now(runner) -> bool:
    """Whether a CheckpointHook will save after this iteration."""
    return any(
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner))
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and not hook.by_epoch
    )


def _pending_gradients(runner, fill: bool = False) -> dict[str, Tensor]:
    """Return gradients that were accumulated and not applied yet; none after an update.

    Args:
        fill: return zeros for a missing one, so that all processes return the same names.
    """
    if all(wrapper.should_update() for wrapper in optim_wrappers(runner)):
        return {}
    gradients = {}
    for name, parameter in runner.model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.detach().clone()
        elif fill and parameter.requires_grad:
            gradients[name] = torch.zeros_like(parameter)
    return gradients


def _put_gradients(runner, gradients: dict[str, Tensor]) -> None:
    for name, parameter in runner.model.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter)
