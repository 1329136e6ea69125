"""What became of each norm in re-parameterization."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NormFolding:
    """What became of one norm.

    Attributes:
        norm: its full name.
        layers: names of the layers that took it in; none if it became a
            :class:`~slab_det.layers.ChannelAffine`.
        reason: why it folded, or why it did not.
    """

    norm: str
    layers: tuple[str, ...]
    reason: str


@dataclass
class FoldingReport:
    """What :func:`reparameterize` made of each norm, in the order of ``model.named_modules()``.

    Printed it is a table with a line for each norm.

    Attributes:
        norms: a :class:`NormFolding` for each norm.
    """

    norms: list[NormFolding] = field(default_factory=list)

    def folded(self) -> dict[str, tuple[str, ...]]:
        """Return the layers that took a norm in, by the norm's name."""
        return {entry.norm: entry.layers for entry in self.norms if entry.layers}

    def kept(self) -> dict[str, str]:
        """Return why a norm stays, as a ``ChannelAffine``, by the norm's name."""
        return {entry.norm: entry.reason for entry in self.norms if not entry.layers}

    def __str__(self) -> str:
        rows = [('norm', 'became part of', 'why')] + [
            (entry.norm, ', '.join(entry.layers) or '- (ChannelAffine)', entry.reason)
            for entry in self.norms
        ]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f'{a:<{widths[0]}}  {b:<{widths[1]}}  {c}'.rstrip() for a, b, c in rows]
        total = f'{len(self.folded())} of {len(self.norms)} norms folded into another layer'
        return '\n'.join([*lines, total])
