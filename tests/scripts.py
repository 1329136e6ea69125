"""The scripts of the project as modules, for tests that call them in their own process."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from slab_det.cli import run
from tools.docs import commands

ROOT = Path(__file__).resolve().parents[1]


def load_script(path: str | Path) -> ModuleType:
    """Import a script, anew at each call, by its path (from the project's folder)."""
    return commands.load_script(ROOT / path)


def caller(script: ModuleType, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a script with the arguments it is given, as its command does,
    and returns the exit code, the output and the errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', [script.__file__, *map(str, arguments)])
        code = 0
        try:
            run(script.main, script.parse_args())
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    return call
