"""Pictures of ground truth and predictions; needs NumPy and OpenCV only."""

from .names import drawn_names
from .panels import Instance, class_colour, compare, draw_instances

__all__ = ['Instance', 'class_colour', 'compare', 'draw_instances', 'drawn_names']
