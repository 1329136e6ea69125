"""Pictures of feature maps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Outliers beyond these percentiles do not stretch the colours of the rest.
_PERCENTILES = (1.0, 99.0)


def feature_strength(feature: Tensor) -> np.ndarray:
    """Return the strength of a feature map at each place, the root mean square of its channels.

    Args:
        feature: ``(C, H, W)``.

    Returns:
        float32 (H, W).
    """
    return feature.detach().float().square().mean(0).sqrt().cpu().numpy()


def feature_colours(feature: Tensor) -> np.ndarray:
    """Return the first three principal components of a feature map as red, green and blue.

    Places of a similar colour have similar features; which colour it is means nothing. Each
    component is scaled to 0 to 1 between its 1st and 99th percentile. Components beyond the map's
    rank are 0.

    Args:
        feature: ``(C, H, W)``.

    Returns:
        float32 (H, W, 3) in [0, 1].
    """
    channels, height, width = feature.shape
    places = feature.detach().double().reshape(channels, -1).T.cpu()
    places = places - places.mean(0)
    _, values, directions = torch.linalg.svd(places, full_matrices=False)
    number = min(3, int((values > 1e-9 * values[0].clamp_min(1e-30)).sum()))
    colours = np.zeros((height * width, 3), np.float32)
    for index in range(number):
        direction = directions[index]
        # The sign of a principal component is arbitrary; this choice makes pictures repeatable.
        direction = direction * torch.sign(direction[direction.abs().argmax()])
        colours[:, index] = _scaled((places @ direction).numpy())
    return colours.reshape(height, width, 3)


def draw_features(image: np.ndarray, features: Sequence[Tensor], names: Sequence[str]):
    """Draw the strength of every level over the image, and the levels in colours below.

    Args:
        image: uint8 (H, W, 3), red, green, blue.
        features: ``(C, H_i, W_i)`` of the levels, covering the image.
        names: what stands above each level.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    columns = len(features) + 1
    height, width = image.shape[:2]
    panel = 3.2
    size = panel * columns, 2 * panel * height / width + 0.9
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(2, columns, squeeze=False)
    extent = (0, width, height, 0)
    for column, (feature, name) in enumerate(zip(features, names), start=1):
        strength = _scaled(feature_strength(feature))
        axes[0, column].imshow(image)
        axes[0, column].imshow(strength, cmap='inferno', alpha=0.65, extent=extent)
        axes[0, column].set_title(name, fontsize=10)
        axes[1, column].imshow(feature_colours(feature), extent=extent)
    axes[0, 0].imshow(image)
    axes[0, 0].set_title('strength over the image', fontsize=10)
    axes[1, 0].imshow(image)
    axes[1, 0].set_title('three principal components', fontsize=10)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, _PERCENTILES)
    return np.clip((values - low) / max(high - low, 1e-30), 0, 1).astype(np.float32)
