"""Re-parameterization before a test run."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from slab_det.deploy import place_twins, reparameterize
from slab_det.mm.model import unwrap


@HOOKS.register_module()
class ReparameterizeHook(Hook):
    """Test a copy of the model with every PRepBN and RepBN folded away.

    The model itself is back after the test, so that hooks that swap weights, such as EMAHook, find
    the parameters that they know.

    Args:
        drop_layer_norm: set the ratio to 0 first if it is not; see
            :func:`slab_det.deploy.reparameterize`.

    Raises:
        ValueError: before the test, if the model cannot be re-parameterized.
    """

    # After hooks that swap or change weights, such as EMAHook.
    priority = 'LOWEST'

    def __init__(self, drop_layer_norm: bool = False) -> None:
        self.drop_layer_norm = drop_layer_norm

    def before_test_epoch(self, runner: Runner) -> None:
        self._model = runner.model
        folded = reparameterize(unwrap(runner.model), drop_layer_norm=self.drop_layer_norm)
        runner.model = place_twins(folded)
        print_log('A re-parameterized copy of the model is tested.', 'current')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        runner.model = self._model
