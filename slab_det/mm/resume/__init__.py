"""Exact resumption: a training that goes on from a checkpoint repeats the uninterrupted one."""

from .random_state_hook import RandomStateHook

__all__ = ['RandomStateHook']
