"""Checks of annotations, classes and images before work begins."""

from .annotations import Annotations, read_annotations
from .classes import check_class_order, check_classes_of_model, check_trained_classes, classes_of
from .findings import Finding, Report, Use

__all__ = [
    'Annotations',
    'Finding',
    'Report',
    'Use',
    'check_class_order',
    'check_classes_of_model',
    'check_trained_classes',
    'classes_of',
    'read_annotations',
]
