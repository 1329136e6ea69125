"""The categories of the annotation files, and which of them the drawn shapes and surfaces are."""

from dataclasses import dataclass

from .scenes import STUFF_CLASSES, THING_CLASSES

#: The numbers of COCO's 80 things.
COCO_THING_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
_FIRST_COCO_STUFF_ID = 92
#: What stands for a disk, a box, a triangle, a star and a ring among COCO's things, and for the
#: surfaces among its stuff: the likeliest in shape or pattern.
_COCO_THINGS = ('frisbee', 'book', 'pizza', 'kite', 'donut')
_COCO_STUFF = (
    'wall-other-merged',
    'sky-other-merged',
    'fence-merged',
    'floor-other-merged',
    'grass-merged',
)


@dataclass(frozen=True)
class Category:
    """One category of an annotation file."""

    id: int
    name: str


@dataclass(frozen=True)
class Categories:
    """The categories that annotation files list, and how scenes are labelled with them.

    Attributes:
        things: every category with instances, in the order of their labels.
        stuff: every category without.
        thing_of: the category of each of THING_CLASSES, an index into ``things``.
        stuff_of: the category of each of STUFF_CLASSES, an index into ``stuff``.
    """

    things: tuple[Category, ...]
    stuff: tuple[Category, ...]
    thing_of: tuple[int, ...]
    stuff_of: tuple[int, ...]

    def thing_id(self, label: int) -> int:
        """Return the category id of a thing by its index into THING_CLASSES."""
        return self.things[self.thing_of[label]].id

    def stuff_id(self, label: int) -> int:
        """Return the category id of a background by its index into STUFF_CLASSES."""
        return self.stuff[self.stuff_of[label]].id


#: Things 1 to 5 and, after them, stuff 6 to 10.
SHAPES = Categories(
    things=tuple(Category(i, name) for i, name in enumerate(THING_CLASSES, start=1)),
    stuff=tuple(
        Category(i, name) for i, name in enumerate(STUFF_CLASSES, start=len(THING_CLASSES) + 1)
    ),
    thing_of=tuple(range(len(THING_CLASSES))),
    stuff_of=tuple(range(len(STUFF_CLASSES))),
)


def coco_categories() -> Categories:
    """Return COCO's 80 things, under their own numbers, and its 53 stuff categories.

    Stuff is numbered through from 92, while COCO's own numbers have gaps there.

    Raises:
        ImportError: mmdet is missing.
    """
    from slab_det.compat import require_detection

    require_detection("the data set in COCO's layout")
    from mmdet.datasets import CocoPanopticDataset

    things, stuff = (CocoPanopticDataset.METAINFO[f'{kind}_classes'] for kind in ('thing', 'stuff'))
    return Categories(
        things=tuple(Category(i, name) for i, name in zip(COCO_THING_IDS, things)),
        stuff=tuple(Category(i, name) for i, name in enumerate(stuff, start=_FIRST_COCO_STUFF_ID)),
        thing_of=tuple(things.index(name) for name in _COCO_THINGS),
        stuff_of=tuple(stuff.index(name) for name in _COCO_STUFF),
    )
