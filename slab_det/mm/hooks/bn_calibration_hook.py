"""Hook that recomputes BatchNorm statistics, and the phase of training that updates them alone."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from mmdet.registry import DATASETS
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from slab_det.errors import InputError
from slab_det.mm.model import averaged_models, optim_wrappers, unwrap
from slab_det.mm.resume.random_states import states_kept
from slab_det.statistics import (
    NormSite,
    Statistics,
    calibrate_batch_norm,
    fit_repbn_to_layer_norm,
    frozen_parameters,
    get_statistics,
    norm_sites,
    put_statistics,
    sites_to_calibrate,
)
from slab_det.values import check_count, check_flag, check_point, check_tolerance

from .calibration_data import calibration_loader, check_dataset, images_as_tested, progress_bar
from .prepbn_hook import PRepBNHook
from .training_points import UNIT, check_only_one, to_iterations

STATE_KEY = 'bn_calibration'


@HOOKS.register_module()
class BNCalibrationHook(Hook):
    """Evaluates and saves models whose BatchNorm statistics are true averages over images.

    The statistics are those of :func:`slab_det.statistics.calibrate_batch_norm` over images of the
    training data that go through the pipeline of the test, one at a time: no flip, no batch
    padding. With ``EMAHook`` they are those of the averaged model.

    Training itself goes on with its running statistics: they are put back after validation, random
    numbers too, and a checkpoint with calibrated statistics holds them besides, for a resumption.
    So a training with the hook has the losses of one without, and ends with the same
    parameters. Only ``freeze_from`` changes it.

    Args:
        num_images: number of images, spread evenly over the data set; of all processes together.
        at_val: calibrate before each validation. Checkpoints of the best score then hold what was
            validated.
        at_end: calibrate after the last training iteration, so that the last checkpoint and the
            validation after it have these statistics. If ``EarlyStoppingHook`` ends the training
            before, its last checkpoint is written already; the hook warns that it is not
            calibrated.
        at_test: calibrate before a test; a test after training has them from ``at_end``.
        freeze_from: the paper's phase ("freeze the model parameters and exclusively update the
            statistics"): from here on, an ``int`` of epochs (or iterations with
            ``by_epoch=False``) or a ``float`` as a fraction of training, the training iterations go
            on with frozen parameters and without drop path and dropout; only the running statistics
            move. None: no such phase. Not before the ratio of PRepBN has arrived, or the norms
            change under parameters that cannot follow; at the end of training, nothing would
            freeze: the hook warns of both. ``EMAHook`` goes on averaging.
        by_epoch: whether a whole number ``freeze_from`` counts epochs or iterations.
        fit_layer_norm: before the first iteration of a training that starts at ratio 1, begin the
            RepBN branch where the LayerNorm is, see
            :func:`~slab_det.statistics.fit_repbn_to_layer_norm`; for detectors that were trained
            with LayerNorm.
        include_frozen, max_passes, tolerance: see
            :func:`~slab_det.statistics.calibrate_batch_norm`.
        dataset: images to calibrate with, a data set or its config, with the pipeline that they
            shall pass. Default: that of ``train_dataloader`` with the pipeline of
            ``val_dataloader``, or ``test_dataloader``.
        num_workers: processes that read the images.

    Raises:
        InputError: an argument is out of its range; when training begins, all statistics are
            frozen, the images cannot be found, or there is a second such hook.
    """

    # After PRepBNHook (LOW), before CheckpointHook (VERY_LOW) saves.
    priority = 80

    def __init__(
        self,
        num_images: int = 128,
        at_val: bool = True,
        at_end: bool = True,
        at_test: bool = False,
        freeze_from: None | int | float = None,
        by_epoch: bool = True,
        fit_layer_norm: bool = False,
        include_frozen: bool = False,
        max_passes: int = 20,
        tolerance: float = 0.01,
        dataset: None | Mapping[str, Any] | Any = None,
        num_workers: int = 2,
    ) -> None:
        check_count('num_images', num_images, 1)
        check_count('max_passes', max_passes, 1)
        check_count('num_workers', num_workers)
        check_tolerance('tolerance', tolerance)
        for name, value in (
            ('at_val', at_val),
            ('at_end', at_end),
            ('at_test', at_test),
            ('by_epoch', by_epoch),
            ('fit_layer_norm', fit_layer_norm),
            ('include_frozen', include_frozen),
        ):
            check_flag(name, value)
        if dataset is not None:
            check_dataset(dataset)
        if freeze_from is not None:
            check_point('freeze_from', freeze_from, UNIT)
        if freeze_from is None and not (at_val or at_end or at_test or fit_layer_norm):
            raise InputError(
                'at_val, at_end, at_test and fit_layer_norm are False and freeze_from is '
                'None: the hook would do nothing; set one of them or remove it.'
            )
        self.num_images = num_images
        self.at_val = at_val
        self.at_end = at_end
        self.at_test = at_test
        self.freeze_from = freeze_from
        self.by_epoch = by_epoch
        self.fit_layer_norm = fit_layer_norm
        self.dataset = dataset
        self.num_workers = num_workers
        self._options = dict(
            include_frozen=include_frozen, max_passes=max_passes, tolerance=tolerance
        )
        self._loader = None
        self._freeze_iter: float | None = None
        self._freezing: ExitStack | None = None  # undoes the phase without updates, while it runs
        self._found: Statistics | None = None  # calibrated statistics that hold right now
        self._running: Statistics = {}  # and the running ones that they stand for
        self._at_the_end = False
        self._replaced: list[NormSite] = []
        self._before: Statistics = {}

    # ---------------------------------------------------------------- calibration

    def _calibrate(self, runner, model: nn.Module) -> None:
        """Find the statistics of ``model``, which keeps its own."""
        self._find_images(runner)
        sites = norm_sites(model)
        running = get_statistics(sites)
        with states_kept():
            report = calibrate_batch_norm(
                model, self._loader, progress=progress_bar, **self._options
            )
        calibrated = [site for site in sites if site.name in report.mean_change]
        self._found = get_statistics(calibrated)
        put_statistics(sites, running)
        self._running = get_statistics(calibrated)
        for line in report.summary().splitlines():
            runner.logger.info(f'BNCalibrationHook: {line}')
        if report.residual > self._options['tolerance'] and report.passes > 1:
            runner.logger.warning(
                f'BNCalibrationHook: the statistics still change by '
                f'{report.residual:.2g}: raise max_passes.'
            )

    def _find_images(self, runner) -> None:
        if self._loader is None:
            dataset = self.dataset
            if dataset is None:
                tested = runner._val_dataloader or runner._test_dataloader
                dataset = images_as_tested(runner._train_dataloader, tested)
            elif isinstance(dataset, Mapping):
                dataset = DATASETS.build(dataset)
            self._loader = calibration_loader(dataset, self.num_images, self.num_workers)

    @staticmethod
    def _tested(runner) -> nn.Module:
        """Return the model that validation and checkpoints after training have."""
        return next(iter(averaged_models(runner)), unwrap(runner.model))

    # ---------------------------------------------------------------- training

    def before_train(self, runner) -> None:
        check_only_one(self, runner)
        model = unwrap(runner.model)
        self._found, self._at_the_end = None, False
        if self.at_end or (self.at_val and runner.val_loop is not None):
            # Now rather than after the training.
            sites_to_calibrate(model, self._options['include_frozen'])
            self._find_images(runner)
        if self.fit_layer_norm and runner.iter == 0:
            self._fit(runner, model)
        if self.freeze_from is not None:
            self._plan_freezing(runner, model)

    def _fit(self, runner, model: nn.Module) -> None:
        self._find_images(runner)
        progress = partial(progress_bar, title='fit to LayerNorm')
        with states_kept():
            explained = fit_repbn_to_layer_norm(model, self._loader, progress=progress)
        worst = min(explained, key=explained.get)
        runner.logger.info(
            f'BNCalibrationHook: {len(explained)} RepBN branches fitted to their LayerNorm, of '
            f'whose variance they explain {sum(explained.values()) / len(explained):.1%}, at '
            f'least {explained[worst]:.1%} (in {worst}).'
        )

    def _plan_freezing(self, runner, model: nn.Module) -> None:
        self._freeze_iter = to_iterations('freeze_from', self.freeze_from, self.by_epoch, runner)
        if not norm_sites(model):
            raise InputError(
                f'freeze_from={self.freeze_from}: {type(model).__name__} has no BatchNorm '
                'whose statistics could be updated; remove the hook.'
            )
        if self._freeze_iter >= runner.max_iters:
            runner.logger.warning(
                f'BNCalibrationHook: freeze_from={self.freeze_from} (iteration '
                f'{self._freeze_iter:g}) does not lie before the end of training at iteration '
                f'{runner.max_iters}, so that nothing freezes: lower freeze_from (0.9 is the last '
                'tenth of training).'
            )
            return
        schedulers = [hook.scheduler for hook in runner.hooks if isinstance(hook, PRepBNHook)]
        end = max((scheduler.end_iter for scheduler in schedulers if scheduler), default=0)
        if end > self._freeze_iter:
            runner.logger.warning(
                f'BNCalibrationHook: freeze_from={self.freeze_from} (iteration '
                f'{self._freeze_iter:g}) lies before the ratio of PRepBN arrives at iteration '
                f'{end:g}: raise freeze_from or lower end of PRepBNHook.'
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if self._freeze_iter is None or runner.iter < self._freeze_iter:
            return
        model = unwrap(runner.model)
        if self._freezing is None:
            count = sum(parameter.requires_grad for parameter in model.parameters())
            self._freezing = ExitStack()
            self._freezing.enter_context(frozen_parameters(model))
            for wrapper in optim_wrappers(runner):
                wrapper.update_params = _no_update
                self._freezing.callback(delattr, wrapper, 'update_params')
            runner.logger.info(
                f'BNCalibrationHook: {count} parameters are frozen from iteration {runner.iter}, '
                'only running statistics are updated.'
            )
        # The loops switch the whole model to training, by the epoch or by the iteration.
        for module in model.modules():
            if _drops(module):
                module.eval()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.at_end and self.is_last_train_iter(runner):
            self._calibrate(runner, self._tested(runner))
            self._at_the_end = True

    def after_train(self, runner) -> None:
        if self._freezing is not None:
            self._freezing.close()
            self._freezing = None
        if self._at_the_end:
            put_statistics(norm_sites(self._tested(runner)), self._found)
        elif self.at_end and runner.iter < runner.max_iters:
            # EarlyStoppingHook decides in a validation, after the checkpoint before it was written.
            runner.logger.warning(
                f'BNCalibrationHook: training stopped early at iteration {runner.iter} of '
                f'{runner.max_iters}, so that at_end=True calibrated nothing and the last '
                'checkpoint holds running statistics: calibrate it with tools/calibrate_bn.py.'
            )
        self._found, self._at_the_end, self._loader = None, False, None

    # ---------------------------------------------------------------- evaluation

    def before_val_epoch(self, runner) -> None:
        # EMAHook has swapped the averaged model in.
        self._evaluate(runner, self.at_val)

    def before_test_epoch(self, runner) -> None:
        self._evaluate(runner, self.at_test)

    def _evaluate(self, runner, calibrate: bool) -> None:
        model = unwrap(runner.model)
        if calibrate and self._found is None:
            self._calibrate(runner, model)
        if self._found is not None:
            self._replaced = norm_sites(model)
            self._before = get_statistics(self._replaced)
            put_statistics(self._replaced, self._found)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._put_back(batch_idx, runner.val_dataloader)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._put_back(batch_idx, runner.test_dataloader)

    def _put_back(self, batch_idx: int, loader: DataLoader) -> None:
        # The last iteration, since after the epoch EMAHook swaps the averaged model out first.
        if batch_idx + 1 == len(loader):
            put_statistics(self._replaced, self._before)
            self._replaced = []

    def after_val(self, runner) -> None:
        if not self._at_the_end:
            self._found = None

    after_test = after_val

    # ---------------------------------------------------------------- checkpoints

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._found is None:
            return
        # EMAHook has put the averaged model there.
        self._write(checkpoint['state_dict'], unwrap(runner.model), self._found)
        checkpoint[STATE_KEY] = dict(
            running={
                name: dict(mean=mean.cpu(), var=var.cpu())
                for name, (mean, var) in self._running.items()
            }
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        kept = checkpoint.get(STATE_KEY)
        if kept is None or not runner._resume:
            return
        running = {name: (value['mean'], value['var']) for name, value in kept['running'].items()}
        averaged = averaged_models(runner)
        if averaged and 'ema_state_dict' in checkpoint:
            put_statistics(norm_sites(averaged[0]), running)  # EMAHook has loaded it already
        else:
            self._write(checkpoint['state_dict'], unwrap(runner.model), running)

    @staticmethod
    def _write(state_dict: dict, model: nn.Module, statistics: Statistics) -> None:
        """Put ``statistics`` into a state dict; its tensors are replaced, as they may be the
        model's."""
        sites = {id(site.bn): site.name for site in norm_sites(model)}
        for name, module in model.named_modules(remove_duplicate=False):
            found = statistics.get(sites.get(id(module)))
            for leaf, value in zip(('running_mean', 'running_var'), found or ()):
                key = f'{name}.{leaf}'
                state_dict[key] = value.to(state_dict[key])


def _no_update(loss, *args, **kwargs) -> None:
    """Stands in for ``OptimWrapper.update_params`` while parameters are frozen."""


def _drops(module: nn.Module) -> bool:
    """Whether ``module`` drops at random in training: dropout, drop path, attention's dropout."""
    return 'Drop' in type(module).__name__ or isinstance(module, nn.MultiheadAttention)
