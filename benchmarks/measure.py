"""Timing of alternating networks and peak memory of a child process."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import nn

#: Share of a run's time that the host may take away before the run is repeated, and how often.
TOLERATED, TRIES = 0.03, 4


class Size(NamedTuple):
    """Size of an image in pixels, written as on the command line: 800x1216."""

    height: int
    width: int

    def __str__(self) -> str:
        return f'{self.height}x{self.width}'

    @classmethod
    def parse(cls, text: str) -> 'Size':
        """Read a size; a ``type`` for argparse, which says the error's sentence with the option's
        name."""
        match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
        if not match:
            raise argparse.ArgumentTypeError(
                f'{text} is no height x width in pixels, such as 800x1216'
            )
        return cls(int(match[1]), int(match[2]))


class Case:
    """How a network is run.

    Args:
        part: 'backbone', 'detector' or 'training'.
        mode: 'eager' or 'compile'.
        dtype: 'float32', 'bf16' or 'fp16'; the latter two under autocast.
        size: height and width in pixels.
        batch: images per run.
        device: 'cpu' or 'cuda'.
    """

    def __init__(self, part: str, mode: str, dtype: str, size, batch: int, device: str) -> None:
        self.part, self.mode, self.dtype, self.size = part, mode, dtype, tuple(size)
        self.batch, self.device = batch, device

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Return a function that runs ``model`` once and waits for the result."""
        model = model.to(self.device)
        image = torch.randn(
            self.batch,
            3,
            *self.size,
            device=self.device,
            generator=torch.Generator(self.device).manual_seed(0),
        )
        half = {'bf16': torch.bfloat16, 'fp16': torch.float16}.get(self.dtype)
        call = model
        if self.mode == 'compile':
            import torch._inductor.config as inductor

            inductor.freezing = self.part != 'training'
            if self.part == 'detector':  # its heads decide in Python; the backbone is what compiles
                model.model.backbone = torch.compile(model.model.backbone)
            else:
                call = torch.compile(model)

        def run() -> None:
            training = self.part == 'training'
            with nullcontext() if training else torch.no_grad():
                with torch.autocast(self.device, half, enabled=half is not None):
                    out = call(image)
                if training:
                    sum(o.float().square().mean() for o in out).backward()
                    model.zero_grad(set_to_none=True)
            if self.device == 'cuda':
                torch.cuda.synchronize()

        return run

    def __str__(self) -> str:
        height, width = self.size
        images = '' if self.batch == 1 else f', batch {self.batch}'
        return f'{self.part}, {self.mode}, {self.dtype}, {height}x{width}{images}'


class Timing(NamedTuple):
    """A run: its seconds, and the share of them that other machines of the host took away."""

    seconds: float
    stolen: float


class Times(list[Timing]):
    """The timed runs of a network."""

    @property
    def median(self) -> float:
        """Seconds of the run in the middle."""
        return statistics.median(timing.seconds for timing in self)

    @property
    def fastest(self) -> float:
        """Seconds of the fastest run."""
        return min(timing.seconds for timing in self)


def busy_host(times: dict[str, Times]) -> list[str]:
    """Return a paragraph, or nothing, for a table whose times the host's other work distorts."""
    stolen = max(timing.stolen for runs in times.values() for timing in runs)
    return (
        ['', f'The host was busy: it took up to {stolen:.0%} of a run.']
        if stolen > TOLERATED
        else []
    )


def alternate(
    runs: dict[str, Callable[[], None]], rounds: int, log: Callable[[str], None]
) -> dict[str, Times]:
    """Time the runs in turn, ``rounds`` times, after one run each to warm up.

    On a virtual machine whose host is busy the system counts the time that it was not given. A run
    that lost more than ``TOLERATED`` is repeated, and the one that lost least counts.
    """
    for run in runs.values():
        run()
    times = {name: Times() for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            tries: list[Timing] = []
            while not tries or (tries[-1].stolen > TOLERATED and len(tries) < TRIES):
                tries.append(_time(run))
            times[name].append(min(tries, key=lambda timing: timing.stolen))
        log(f'  round {number + 1} of {rounds}')
    return times


def _time(run: Callable[[], None]) -> Timing:
    start, stolen = time.perf_counter(), _stolen_seconds()
    run()
    seconds = time.perf_counter() - start
    return Timing(seconds, (_stolen_seconds() - stolen) / seconds)


def _stolen_seconds() -> float:
    """Return the seconds, summed over CPUs, in which this machine had work but no CPU."""
    if not os.path.exists('/proc/stat'):
        return 0.0
    with open('/proc/stat') as file:
        return int(file.readline().split()[8]) / os.sysconf('SC_CLK_TCK')


def peak_memory(script: str, case: Case, name: str, threads: int) -> float:
    """Return the peak memory in MiB above what was there before the first run.

    On a GPU it is what torch allocated; on a CPU the resident peak of a child process, in which
    nothing else has run.
    """
    arguments = dict(
        part=case.part,
        mode=case.mode,
        dtype=case.dtype,
        size=case.size,
        batch=case.batch,
        device=case.device,
        name=name,
        threads=threads,
    )
    result = subprocess.run(
        [sys.executable, script, '--child', json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': str(threads)},
    )
    if result.returncode:
        raise RuntimeError(
            f'the child process for {name} failed: {result.stderr.strip().splitlines()[-1:]}'
        )
    return float(result.stdout.strip().splitlines()[-1])


def measure_child(model: nn.Module, case: Case) -> float:
    """Run ``model`` twice and return its peak memory in MiB, see :func:`peak_memory`."""
    run = case.prepare(model)
    if case.device == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # the peak begins again at what is resident now
    before = _status('VmRSS')
    run()
    run()
    return (_status('VmHWM') - before) / 2**10


def _status(field: str) -> float:
    with open('/proc/self/status') as file:
        return float(next(line.split()[1] for line in file if line.startswith(field)))
