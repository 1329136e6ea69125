"""Necks for backbones of one scale, in mmdet's registry."""

from .simple_fpn import SimpleFPN

__all__ = ['SimpleFPN']
