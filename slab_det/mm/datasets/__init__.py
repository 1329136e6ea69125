"""The small built-in data set of drawn shapes; needs NumPy and OpenCV only."""

from .generator import LAYOUTS, DatasetError, make_shapes_dataset
from .scenes import MIN_SIDE, STUFF_CLASSES, THING_CLASSES, Scene, draw_scene

__all__ = [
    'DatasetError',
    'LAYOUTS',
    'MIN_SIDE',
    'STUFF_CLASSES',
    'Scene',
    'THING_CLASSES',
    'draw_scene',
    'make_shapes_dataset',
]
