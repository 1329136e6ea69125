"""What can be wrong with an annotation file, and for whom it matters."""

from typing import NamedTuple

#: What a file is read for: by pycocotools' index and mmdet's data sets at all, for boxes to learn,
#: for boxes to compare with, and for both with masks.
READ, TRAIN, EVAL, TRAIN_MASKS, EVAL_MASKS = 'read', 'train', 'eval', 'train_masks', 'eval_masks'
ALL_ROLES = frozenset((READ, TRAIN, EVAL, TRAIN_MASKS, EVAL_MASKS))

_FIX = 'write a corrected copy with tools/check_data.py --ann {path} --fix NEW.json'


class Rule(NamedTuple):
    """A kind of fault.

    Attributes:
        part: list of the file, ``images``, ``annotations`` or ``categories``.
        text: what is wrong, behind a number and the part.
        fatal: roles in which mmdet, mmcv or pycocotools crash on it or learn nothing from it.
        told: roles in which it is worth a warning; empty for all.
        field: key whose value an example shows.
        remedy: what to do; ``{path}`` is the file.
    """

    part: str
    text: str
    fatal: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    field: str = ''
    remedy: str = _FIX


_MASKS = (TRAIN_MASKS, EVAL_MASKS)
_REMOVE = 'correct or remove them'

RULES = {
    # images
    'image-entry': Rule(
        'images',
        'lack id, file_name, height or width',
        (READ,),
        remedy='give them what they lack or remove them',
    ),
    'image-id': Rule(
        'images', 'have an id that is not a number or a text', (READ,), field='id', remedy=_REMOVE
    ),
    'image-id-twice': Rule(
        'images',
        'have the id of an earlier one and would replace it',
        (READ,),
        field='id',
        remedy='give every image an id of its own, as a tool that merges COCO files does',
    ),
    'image-id-mixed': Rule(
        'images',
        'have a text as id where others have a number, which an evaluation does not tell apart',
        (EVAL,),
        field='id',
    ),
    'image-name': Rule(
        'images', 'have a file_name that is not a text', (READ,), field='file_name', remedy=_REMOVE
    ),
    'image-name-twice': Rule(
        'images', 'have the file_name of an earlier one', field='file_name', remedy=_REMOVE
    ),
    'image-size': Rule(
        'images',
        'have a width or height that is not a finite number',
        (READ,),
        field='width',
        remedy='set them to the size of the image, as tools/check_data.py --ann {path} --images '
        'FOLDER --fix NEW.json does',
    ),
    'image-size-zero': Rule(
        'images',
        'have a width or height of 0 or less, which drops their boxes',
        field='width',
        remedy='set them to the size of the image',
    ),
    'image-size-fraction': Rule(
        'images', 'have a width or height that is not whole', _MASKS, _MASKS, 'width'
    ),
    # categories
    'category-entry': Rule('categories', 'lack id or name', (READ,), remedy=_REMOVE),
    'category-id': Rule(
        'categories',
        'have an id that is not a number or a text',
        (READ,),
        field='id',
        remedy=_REMOVE,
    ),
    'category-id-mixed': Rule(
        'categories',
        'have a text as id where others have a number, which an evaluation does not tell apart',
        (EVAL,),
        field='id',
    ),
    # annotations
    'annotation-entry': Rule(
        'annotations',
        'lack id, image_id or category_id',
        (READ,),
        remedy='give them what they lack or remove them',
    ),
    'annotation-id': Rule(
        'annotations', 'have an id that is not a number or a text', (READ,), field='id'
    ),
    'annotation-id-twice': Rule(
        'annotations', 'have the id of an earlier one', (READ,), field='id'
    ),
    'annotation-id-text': Rule(
        'annotations', 'have a text as id, for which an evaluation needs a number', (EVAL,), (EVAL,)
    ),
    'annotation-id-zero': Rule(
        'annotations',
        'have the id 0, with which pycocotools counts a hit as a false detection',
        told=(EVAL,),
    ),
    'reference': Rule(
        'annotations',
        'have an image_id or category_id that is not a number or a text',
        (READ,),
        remedy=_REMOVE,
    ),
    'image-unknown': Rule(
        'annotations', 'belong to no image of the file and are left out', field='image_id'
    ),
    'category-unknown': Rule(
        'annotations', 'belong to no category of the file and are left out', field='category_id'
    ),
    'category-unknown-panoptic': Rule(
        'annotations',
        'belong to no category of the file',
        (READ,),
        field='category_id',
        remedy=_REMOVE,
    ),
    'box': Rule(
        'annotations',
        'have no bbox of four finite numbers (left, top, width, height)',
        (READ,),
        field='bbox',
    ),
    'area': Rule('annotations', 'have no area that is a finite number', (READ,), field='area'),
    'crowd-missing': Rule(
        'annotations', 'have no iscrowd, which an evaluation needs', (EVAL,), (EVAL,)
    ),
    'crowd': Rule('annotations', 'have an iscrowd that is not a number', (EVAL,), field='iscrowd'),
    'crowd-odd': Rule(
        'annotations',
        'have an iscrowd that is neither 0 nor 1; mmdet ignores a box unless it is 0',
        field='iscrowd',
    ),
    'box-outside': Rule(
        'annotations', 'lie outside their image or have no extent and are left out', field='bbox'
    ),
    'box-over-edge': Rule(
        'annotations', 'reach more than a pixel beyond their image', field='bbox'
    ),
    'box-small': Rule(
        'annotations', 'are less than a pixel wide or high and are left out', field='bbox'
    ),
    'area-zero': Rule(
        'annotations', 'have an area of 0 or less and are left out of training', field='area'
    ),
    'area-large': Rule('annotations', 'have an area larger than their box', field='area'),
    'ignored': Rule('annotations', 'are marked with ignore and left out', field='ignore'),
    # masks
    'mask-missing': Rule(
        'annotations',
        'have no segmentation or an empty one',
        _MASKS,
        _MASKS,
        'segmentation',
        'draw their masks or remove them',
    ),
    'mask-form': Rule(
        'annotations',
        'have a segmentation that is neither polygons of finite numbers nor run lengths with '
        'counts and size',
        _MASKS,
        _MASKS,
        'segmentation',
    ),
    'mask-points': Rule(
        'annotations',
        'have polygons of fewer than 3 points or an odd number of coordinates, which are left out',
        told=_MASKS,
        field='segmentation',
    ),
    'mask-points-eval': Rule(
        'annotations',
        'have a polygon of fewer than 3 points, which pycocotools cannot read',
        (EVAL_MASKS,),
        (EVAL_MASKS,),
        'segmentation',
    ),
    'mask-size': Rule(
        'annotations',
        'have run lengths of another size than their image',
        _MASKS,
        _MASKS,
        'segmentation',
        _REMOVE,
    ),
    'mask-counts': Rule(
        'annotations',
        'have run lengths that do not fill their size',
        _MASKS,
        _MASKS,
        'segmentation',
    ),
}
