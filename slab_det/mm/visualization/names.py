"""Names in pictures: of classes, whose letters a font must have, and of the files."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePath


@lru_cache
def _letters(font: str) -> frozenset[int]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(font_manager.findfont(font)).get_charmap())


def drawn_names(names: Sequence[str], font: str | None = None) -> tuple[list[str], dict[str, str]]:
    """Return what is drawn for each name, and a legend of those that are drawn as a number.

    Args:
        names: of classes.
        font: a font family of matplotlib; None for OpenCV's, which draws ASCII.

    Returns:
        Names, ``'#3'`` for the fourth where a letter of it cannot be drawn, and ``{'#3': name}``.
    """
    drawn, legend = [], {}
    for label, name in enumerate(names):
        known = (
            name.isascii() if font is None else set(map(ord, name)) <= _letters(font)
        ) and name.isprintable()
        drawn.append(name if known else f'#{label}')
        if not known:
            legend[f'#{label}'] = name
    return drawn, legend


def picture_name(path: str) -> str:
    """Return a file name for a picture of the image at ``path``, different for different paths."""
    parts = [part for part in PurePath(path.replace('\\', '/')).parts if part not in ('/', '..')]
    return '__'.join(part.replace('__', '___') for part in parts)
