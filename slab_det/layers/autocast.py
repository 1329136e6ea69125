"""Parts that keep the precision of their input under autocast."""

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> torch.autocast:
    """Return the context in which autocast leaves operators on ``x`` alone."""
    return torch.autocast(autocast_device(x), enabled=False)


def autocast_device(x: Tensor) -> str:
    """Return the device type whose autocast ``x`` is under; tensors without data have none."""
    return 'cpu' if x.is_meta else x.device.type
