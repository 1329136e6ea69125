"""Commands in the documentation: finding them, and checking that they would be understood."""

import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

#: Commands that are not part of the project and need no check.
FOREIGN = (
    *('cd', 'cp', 'export', 'git', 'ls', 'mkdir', 'pip', 'pytest', 'python', 'tensorboard'),
    *('lint-imports', 'pre-commit', 'ruff'),
)
#: Scripts that need a cluster: the tool that each starts, which of its own arguments it hands to
#: the tool first, and how many it needs. The arguments are checked, nothing is started.
WRAPPERS = {
    'dist_train.sh': ('train.py', slice(0, 1), 2),
    'dist_test.sh': ('test.py', slice(0, 2), 3),
    'slurm_train.sh': ('train.py', slice(2, 3), 4),
}
CLUSTER = tuple(f'tools/{name}' for name in WRAPPERS)
#: Marks, on the line above a block, how its commands are proved: ``<!-- check: run -->`` runs them,
#: with ``TEXT=INSTEAD`` behind it after these replacements; ``<!-- check: as FILE -->`` names the
#: tests or pages that run them; ``<!-- check: parse REASON -->`` says why nobody does.
_MARK = re.compile(r'<!-- check: (run|as|parse)\b(.*)-->$')
_OWN_FILE = re.compile(r'(configs|tools|requirements|docs|benchmarks|tests)/[\w./-]+\.\w+$')


class DocError(Exception):
    """A command in the documentation that would not work; the message says why."""


@dataclass
class Command:
    """One command of a bash block.

    Attributes:
        page: path of the page.
        line: of the page, counted from 1.
        words: the command and its arguments, variables replaced, redirections left out.
        environment: assignments before the command.
        mark: how its block is proved, 'run', 'as' or 'parse', or '' without a mark.
        details: what stands behind the mark.
    """

    page: str
    line: int
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = ''
    details: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f'{self.page}:{self.line}: {shlex.join(self.words)}'

    @property
    def needs_proof(self) -> bool:
        """Whether it is a command of the project that can be run on one machine."""
        script = self.words[1] if len(self.words) > 1 else ''
        own = self.words[0] == 'mim' or script.startswith(('tools/', 'benchmarks/'))
        return own and script not in CLUSTER

    def stand_ins(self) -> 'Command':
        """Return the command as it is run, with the replacements of its mark."""

        def replaced(text: str) -> str:
            for detail in self.details:
                old, _, new = detail.partition('=')
                text = text.replace(old, new)
            return text

        return replace(
            self,
            words=[replaced(word) for word in self.words],
            environment={key: replaced(text) for key, text in self.environment.items()},
        )


def commands_of(page: Path, name: str) -> Iterator[Command]:
    """Yield the commands of all bash blocks of a Markdown page."""
    lines = page.read_text(encoding='utf-8').splitlines()
    inside, mark, pending, begun = False, None, '', 0
    variables: dict[str, str] = {}
    exported: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.startswith('```'):
            if not inside and line.strip() == '```bash':
                inside, variables, exported = True, {}, {}
                mark = _MARK.match(lines[number - 2].strip()) if number > 1 else None
            else:
                inside = False
            continue
        if not inside:
            continue
        begun = begun if pending else number
        pending += line
        if pending.endswith('\\'):
            pending = pending[:-1] + ' '
            continue
        text, pending = pending, ''
        for part in re.split(r'\s(?:&&|\|\|)\s', text):
            words = _words(part, variables, f'{name}:{begun}')
            assigned = {}
            while words and re.match(r'[A-Za-z_]\w*=', words[0]):
                key, _, value = words.pop(0).partition('=')
                assigned[key] = value
            if words and words[0] == 'export':
                exported.update(word.split('=', 1) for word in words[1:])
            if words:
                yield Command(
                    name,
                    begun,
                    words,
                    {**exported, **assigned},
                    mark[1] if mark else '',
                    shlex.split(mark[2]) if mark else [],
                )
            else:
                variables.update(assigned)


def _words(text: str, variables: dict[str, str], place: str) -> list[str]:
    for key in sorted(variables, key=len, reverse=True):
        # Not re.sub's template: a backslash in the value is meant as it stands.
        text = re.sub(rf'\$(?:{key}\b|\{{{key}\}})', lambda _, value=variables[key]: value, text)
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise DocError(f'{place}: {text.strip()} is not a shell command: {error}') from error
    for index, word in enumerate(words):
        if word in ('>', '2>', '|'):
            return words[:index]
    return words


def check_mark(command: Command, root: Path) -> None:
    """Check that the page says how the command is proved.

    Raises:
        DocError: naming page, line and command.
    """
    if command.needs_proof and not command.mark:
        raise DocError(
            f'{command}: the page does not say how it is proved; put <!-- check: run -->, '
            '<!-- check: as FILE --> or <!-- check: parse REASON --> above the block'
        )
    if command.mark in ('as', 'parse') and not command.details:
        raise DocError(f'{command}: the mark {command.mark!r} says no more')
    for detail in command.details:
        if command.mark == 'as' and not (root / detail).is_file():
            raise DocError(f'{command}: {detail}, which is to run it, does not exist')
        if command.mark == 'run' and '=' not in detail:
            raise DocError(f'{command}: the mark takes TEXT=INSTEAD, not {detail}')


def check_command(command: Command, root: Path) -> None:
    """Check that scripts and files exist and that the tool's own parser takes the arguments.

    Raises:
        DocError: naming page, line and command.
    """
    program, *rest = command.words
    for word in command.words:
        path = word.partition('=')[2] if word.startswith('--') else word
        if _OWN_FILE.match(path) and not (root / path).exists():
            raise DocError(f'{command}: {path} does not exist')
    if program in ('python', 'bash') and rest and rest[0].startswith(('tools/', 'benchmarks/')):
        _check_script(command, root / rest[0], rest[1:])
    elif program == 'mim':
        _check_mim(command, root)
    elif program not in FOREIGN:
        raise DocError(
            f'{command}: {program} is not known; add it to FOREIGN in '
            'tools/docs/commands.py if it is not part of the project'
        )


def _check_script(command: Command, script: Path, arguments: list[str]) -> None:
    if not script.is_file():
        raise DocError(f'{command}: {script.name} does not exist')
    if script.suffix == '.sh':
        subprocess.run(['bash', '-n', str(script)], check=True)
        if script.name not in WRAPPERS:
            return
        tool, positional, needed = WRAPPERS[script.name]
        if len(arguments) < needed:
            raise DocError(f'{command}: {script.name} takes at least {needed} arguments')
        script, arguments = script.with_name(tool), arguments[positional] + arguments[needed:]
    parse(command, script, arguments)


def _check_mim(command: Command, root: Path) -> None:
    verbs = ('train', 'test', 'run', 'gridsearch')
    if len(command.words) < 4 or command.words[1] not in verbs or command.words[2] != 'slab_det':
        raise DocError(f'{command}: expected mim {"|".join(verbs)} slab_det CONFIG')
    config = command.words[3]
    if config.endswith('.py') and not list((root / 'configs').rglob(config)):
        raise DocError(f'{command}: no config is called {config}')


def load_script(script: Path) -> ModuleType:
    """Import a script as a module, anew at each call."""
    # Under a name of its own: tools/test.py must not become the module `test`.
    name = f'script_{script.stem}'
    spec = importlib.util.spec_from_file_location(name, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(script.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(script.parent))
    return module


def parse(command: Command, script: Path, arguments: list[str]):
    """Return (module, namespace): the script and what its ``parse_args`` makes of the arguments.

    Raises:
        DocError: the parser refuses them, or there is none.
    """
    module = load_script(script)
    if not hasattr(module, 'parse_args'):
        raise DocError(
            f'{command}: {script.name} has no parse_args, so that its arguments cannot be checked'
        )
    argv, sys.argv = sys.argv, [str(script), *arguments]
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            return module, module.parse_args()
    except SystemExit as end:
        if end.code == 0:  # -h
            return module, None
        raise DocError(f'{command}: {errors.getvalue().strip().splitlines()[-1]}') from end
    finally:
        sys.argv = argv


def check_links(page: Path, root: Path) -> Iterator[str]:
    """Yield a sentence for every relative link of a Markdown page that leads nowhere."""
    text = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'\w+:', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        name = os.path.relpath(page, root)
        if not file.exists():
            yield f'{name}: the link {target} leads nowhere'
        elif anchor and file.suffix == '.md' and anchor not in anchors(file):
            yield f'{name}: {os.path.relpath(file, root)} has no heading #{anchor}'


def anchors(page: Path) -> set:
    """Return the anchors that GitHub gives the headings of a page."""
    found: dict[str, int] = {}
    names = set()
    text = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    for heading in re.findall(r'^#+ (.+)$', text, flags=re.MULTILINE):
        plain = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
        name = re.sub(r'[^\w\- ]', '', plain.lower()).strip().replace(' ', '-')
        number = found.get(name, 0)
        found[name] = number + 1
        names.add(f'{name}-{number}' if number else name)
    return names
