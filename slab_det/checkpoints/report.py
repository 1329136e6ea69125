"""What became of the entries of a checkpoint."""
from dataclasses import dataclass, field
from typing import List, Optional


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
        ratio: PRepBN ratio that was loaded, None where the model has no PRepBN.
    """
    origin: str
    used: List[str] = field(default_factory=list)
    renamed: List[str] = field(default_factory=list)
    resized: List[str] = field(default_factory=list)
    ignored: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    ratio: Optional[float] = None

    def summary(self) -> str:
        """Return the report in a few lines."""
        lines = [f'{self.origin}: {len(self.used)} entries used, {len(self.renamed)} of the '
                 f'checkpoint renamed, {len(self.resized)} resized, {len(self.ignored)} ignored, '
                 f'{len(self.missing)} missing']
        if self.ratio is not None:
            lines[0] += f'; PRepBN ratio {self.ratio:.4g}'
        for title, names in self._lists():
            if names:
                lines.append(f'  {title}: {shorten(names)}')
        return '\n'.join(lines)

    def table(self) -> str:
        """Return every entry that was resized, ignored or is missing, one a line."""
        rows = [f'{title:<8}  {name}' for title, names in self._lists() for name in names]
        return '\n'.join([*rows, self.summary().splitlines()[0]])

    def _lists(self):
        return ('resized', self.resized), ('ignored', self.ignored), ('missing', self.missing)


def shorten(names: List[str], limit: int = 6) -> str:
    """Return the first names, and how many more there are."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more
