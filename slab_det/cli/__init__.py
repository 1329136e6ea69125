"""What the command-line tools share: arguments, checks of their input, and errors in one sentence."""

from slab_det.errors import InputError
from slab_det.files import whole_file, writable_folder, write_checkpoint, write_text

from .arguments import KeyValues, add_config_arguments, add_runner_arguments
from .checkpoint_checks import check_checkpoint, check_fit, check_resume, read_checkpoint
from .checks import (
    check_data,
    check_hooks,
    check_model,
    check_trained,
    choose_work_dir,
    deployed_part,
    load_config,
    naming_damaged_images,
    warn_of_missing_hook,
)
from .errors import run
from .launch import check_amp, prepare_launcher

__all__ = [
    'InputError',
    'KeyValues',
    'add_config_arguments',
    'add_runner_arguments',
    'check_amp',
    'check_checkpoint',
    'check_data',
    'check_fit',
    'check_hooks',
    'check_model',
    'check_resume',
    'check_trained',
    'choose_work_dir',
    'deployed_part',
    'load_config',
    'naming_damaged_images',
    'prepare_launcher',
    'read_checkpoint',
    'run',
    'warn_of_missing_hook',
    'whole_file',
    'writable_folder',
    'write_checkpoint',
    'write_text',
]
