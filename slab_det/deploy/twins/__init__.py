"""Twins of blocks: the same parameters, another forward pass, made for where a network is executed.

A network of :mod:`slab_det.models` computes what the papers write, and leaves fast execution to
this package. :func:`place_twins` puts a twin in the place of every block that has one:

- in inference on a CPU the twin works on few windows, rows or tokens at a time, which stay in the
  cache (:mod:`.chunks`, :mod:`.bands`);
- in a graph that is traced or compiled, sizes stay variables, and operators are those that runtimes
  and compilers treat best (:mod:`.graph`);
- everywhere else, in training or on a GPU, it computes what the block does.

Outputs agree up to rounding. Twins have nothing to do with norms: networks with LayerNorm have
them, PRepBN at any ratio, and re-parameterized ones.
"""

from . import blocks  # noqa: F401 - it registers them
from .registry import place_twins, remove_twins, temporarily, twin_of

__all__ = ['place_twins', 'remove_twins', 'temporarily', 'twin_of']
