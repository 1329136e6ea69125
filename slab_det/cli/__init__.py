"""What the command-line tools share: arguments, checks of their input, errors in one sentence."""

from slab_det.errors import InputError, user_input
from slab_det.files import whole_file, writable_folder, write_checkpoint, write_text
from slab_det.progress import progress

from .arguments import (
    KeyValues,
    add_config_arguments,
    add_part,
    add_runner_arguments,
    add_shape,
    add_traceback,
    device,
    file_name,
    number,
)
from .checkpoint_checks import check_checkpoint, check_fit, check_resume, read_checkpoint
from .checks import (
    check_data,
    check_hooks,
    check_model,
    check_trained,
    choose_work_dir,
    load_config,
    naming_damaged_images,
    require_onnx,
    warn_of_missing_hook,
)
from .detector import load_detector
from .errors import built_from, run
from .launch import check_amp, runner_of
from .tables import markdown_table, print_table

__all__ = [
    'InputError',
    'KeyValues',
    'add_config_arguments',
    'add_part',
    'add_runner_arguments',
    'add_shape',
    'add_traceback',
    'built_from',
    'check_amp',
    'check_checkpoint',
    'check_data',
    'check_fit',
    'check_hooks',
    'check_model',
    'check_resume',
    'check_trained',
    'choose_work_dir',
    'device',
    'file_name',
    'load_config',
    'load_detector',
    'markdown_table',
    'naming_damaged_images',
    'number',
    'print_table',
    'progress',
    'read_checkpoint',
    'require_onnx',
    'run',
    'runner_of',
    'user_input',
    'warn_of_missing_hook',
    'whole_file',
    'writable_folder',
    'write_checkpoint',
    'write_text',
]
