"""What became of the entries of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class LoadReport:
    """What became of the entries of a checkpoint.

    Attributes:
        origin: family and size of the checkpoint in words.
        used: entries of the model that were filled.
        renamed: entries of the checkpoint that have another name here.
        resized: entries of the model that were filled with a resized grid.
        ignored: entries of the checkpoint that the model has no place for.
        missing: entries of the model that kept their values.
        ratio: PRepBN ratio that was loaded, None if the model has no PRepBN.
        taken: which weights were taken, if the file holds plain and averaged ones.
    """

    origin: str
    used: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ratio: float | None = None
    taken: str = ''

    def headline(self) -> str:
        """Return the origin and the counts in one line."""
        ratio = '' if self.ratio is None else f'; PRepBN ratio {self.ratio:.4g}'
        return (
            f'{self.origin}: {len(self.used)} entries used, {len(self.renamed)} of the '
            f'checkpoint renamed, {len(self.resized)} resized, {len(self.ignored)} ignored, '
            f'{len(self.missing)} missing{ratio}{self.taken and "; " + self.taken}'
        )

    def summary(self) -> str:
        """Return the headline and the first entries that were resized, ignored or are missing."""
        lists = ('resized', self.resized), ('ignored', self.ignored), ('missing', self.missing)
        return '\n'.join(
            [self.headline(), *(f'  {title}: {shorten(names)}' for title, names in lists if names)]
        )

    def table(self, weights: Mapping[str, Tensor]) -> str:
        """Return what became of every entry, a line each; ``weights`` are those used."""
        states = dict.fromkeys(self.used, 'used')
        states.update(dict.fromkeys(self.resized, 'resized'))
        rows = [f'{state:<8} {name} {tuple(weights[name].shape)}' for name, state in states.items()]
        rows += [f'ignored  {name}' for name in self.ignored]
        return '\n'.join(rows + [f'missing  {name}' for name in self.missing])


def shorten(names: list[str], limit: int = 6) -> str:
    """Return the first names, and how many more there are."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more
