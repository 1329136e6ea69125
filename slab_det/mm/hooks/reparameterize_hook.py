"""Re-parameterization before a test run."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from slab_det.deploy import place_twins, reparameterize


@HOOKS.register_module()
class ReparameterizeHook(Hook):
    """Fold every PRepBN and RepBN away before testing; training and validation are untouched.

    Args:
        drop_layer_norm: set the ratio to 0 first where it is not; see
            :func:`slab_det.deploy.reparameterize`.

    Raises:
        ValueError: before the test, where the model cannot be re-parameterized.
    """

    # After hooks that swap or change weights, such as EMAHook.
    priority = 'LOWEST'

    def __init__(self, drop_layer_norm: bool = False) -> None:
        self.drop_layer_norm = drop_layer_norm

    def before_test_epoch(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        reparameterize(model, inplace=True, drop_layer_norm=self.drop_layer_norm)
        place_twins(model)
        print_log('The model was re-parameterized for the test.', 'current')
