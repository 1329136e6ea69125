"""Ground truth and predictions of one image, side by side, with a legend.

Not drawn by mmdet's DetLocalVisualizer, which varies the colours of a class, lets names cover each
other, draws ignored regions as objects, and has neither a legend nor counts.
"""

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# Smaller images are enlarged so that boxes and names do not hide what they mark.
MIN_PANEL_SIDE = 448
_PAPER, _INK, _IGNORED = (250, 250, 250), (40, 40, 40), (150, 150, 150)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MASK_WEIGHT = 0.45
_GAP = 12

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]


@dataclass
class Instance:
    """One object, true or predicted, in the pixels of the image.

    Attributes:
        label: class index from 0.
        bbox: left, top, right, bottom.
        score: of a prediction; None for ground truth.
        mask: bool (H, W) of the whole image, or None if there are only boxes.
        ignored: a crowd region or the like, which counts neither as hit nor as miss; drawn in grey.
    """

    label: int
    bbox: Sequence[float]
    score: float | None = None
    mask: np.ndarray | None = None
    ignored: bool = False


def class_colour(label: int) -> Colour:
    """Return blue, green and red of a class: hues a golden angle apart, so that they differ."""
    hue = (0.58 + label * 0.381966) % 1.0
    value = (1.0, 0.8, 0.95)[label // 5 % 3]
    saturation = (0.85, 0.6)[label // 8 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw_instances(
    image: np.ndarray, instances: Sequence[Instance], classes: Sequence[str], scale: float = 1.0
) -> np.ndarray:
    """Draw masks, boxes and names over an image.

    Args:
        image: uint8 (H, W, 3), blue, green, red; left unchanged.
        instances: what to draw, in ascending order of score.
        classes: names by class index.
        scale: the drawing is this many times larger than the image.

    Returns:
        uint8 of shape (round(H * scale), round(W * scale), 3).
    """
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    canvas = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    ordered = sorted(instances, key=lambda one: 1.0 if one.score is None else one.score)
    outlines = []
    for one in ordered:
        contours: list[np.ndarray] = []
        if one.mask is not None and one.mask.any():
            contours = _fill(canvas, one, width, height)
        outlines.append(contours)
    boxes = [_scaled_box(one.bbox, scale, width, height) for one in ordered]
    for one, box, contours in zip(ordered, boxes, outlines):
        colour = _colour(one)
        cv2.drawContours(canvas, contours, -1, colour, 2, cv2.LINE_AA)
        for shade, thickness in (((0, 0, 0), 4), (colour, 2)):  # dark edges show on any ground
            cv2.rectangle(canvas, box[:2], box[2:], shade, thickness, cv2.LINE_AA)
    taken: list[Box] = []
    for one, box in reversed(list(zip(ordered, boxes))):  # from the highest score down
        _name(canvas, one, box, classes, taken)
    return canvas


def compare(
    image: np.ndarray,
    truth: Sequence[Instance],
    predictions: Sequence[Instance],
    classes: Sequence[str],
    title: str = '',
    score_thr: float = 0.0,
) -> np.ndarray:
    """Return a picture with the ground truth on the left and the predictions on the right.

    Below them stand the classes that occur in either, with their colour and the numbers of true and
    predicted instances; ignored regions are not counted.

    Args:
        image: uint8 (H, W, 3), blue, green, red.
        truth, predictions: instances in pixels of the image.
        classes: names by class index.
        title: shown above, such as the name of the image.
        score_thr: predictions below this score are left out.

    Returns:
        uint8 picture, each panel at least MIN_PANEL_SIDE high and wide.
    """
    predictions = [one for one in predictions if one.score is None or one.score >= score_thr]
    scale = max(1.0, MIN_PANEL_SIDE / min(image.shape[:2]))
    panels = [draw_instances(image, some, classes, scale) for some in (truth, predictions)]
    height, width = panels[0].shape[:2]
    limit = f' (score >= {score_thr:g})' if score_thr else ''
    headings = (
        f'ground truth: {sum(not one.ignored for one in truth)}',
        f'predictions: {len(predictions)}{limit}',
    )
    heading = _strip(2 * width + 3 * _GAP, 34)
    for index, text in enumerate(headings):
        _text(heading, text, (_GAP + index * (width + _GAP), 24), 0.6)
    row = np.full((height, 2 * width + 3 * _GAP, 3), _PAPER, np.uint8)
    row[:, _GAP : _GAP + width], row[:, -_GAP - width : -_GAP] = panels
    parts = [heading, row, _legend(row.shape[1], truth, predictions, classes)]
    if title:
        top = _strip(row.shape[1], 34)
        _text(top, title, (_GAP, 24), 0.6)
        parts.insert(0, top)
    return np.vstack(parts)


def _colour(one: Instance) -> Colour:
    return _IGNORED if one.ignored else class_colour(one.label)


def _scaled_box(bbox: Sequence[float], scale: float, width: int, height: int) -> Box:
    left, top, right, bottom = (round(float(side) * scale) for side in bbox)
    return (
        min(max(left, 0), width - 1),
        min(max(top, 0), height - 1),
        min(max(right, 0), width - 1),
        min(max(bottom, 0), height - 1),
    )


def _fill(canvas: np.ndarray, one: Instance, width: int, height: int) -> list[np.ndarray]:
    """Tint the mask's pixels; returns the mask's outlines."""
    mask = (
        cv2.resize(one.mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR)
        >= 128
    )
    tint = np.array(_colour(one), np.float32)
    canvas[mask] = (canvas[mask] * (1 - _MASK_WEIGHT) + tint * _MASK_WEIGHT).astype(np.uint8)
    return list(cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0])


def _name(
    canvas: np.ndarray, one: Instance, box: Box, classes: Sequence[str], taken: list[Box]
) -> None:
    """Write class and score beside the box, where it covers the least of other names."""
    text = classes[one.label] + ('' if one.score is None else f' {one.score:.2f}')
    if one.ignored:
        text += ' (ignored)'
    (text_width, text_height), base = cv2.getTextSize(text, _FONT, 0.45, 1)
    width, height = text_width + 6, text_height + base + 4
    left, top, right, bottom = box
    places = [
        (x, y)
        for y in (top - height, bottom + 1, top, bottom - height)
        for x in (left, right - width)
    ]
    places = [
        (
            min(max(x, 0), max(canvas.shape[1] - width, 0)),
            min(max(y, 0), max(canvas.shape[0] - height, 0)),
        )
        for x, y in places
    ]
    x, y = min(
        places,
        key=lambda place: sum(
            _overlap((*place, place[0] + width, place[1] + height), other) for other in taken
        ),
    )
    taken.append((x, y, x + width, y + height))
    colour = _colour(one)
    cv2.rectangle(canvas, (x, y), (x + width, y + height), colour, cv2.FILLED)
    dark = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] < 140
    cv2.putText(
        canvas,
        text,
        (x + 3, y + text_height + 3),
        _FONT,
        0.45,
        (255, 255, 255) if dark else (0, 0, 0),
        1,
        cv2.LINE_AA,
    )


def _overlap(a: Box, b: Box) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _strip(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _text(strip: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(strip, text, at, _FONT, size, _INK, 1, cv2.LINE_AA)


def _legend(
    width: int, truth: Sequence[Instance], predictions: Sequence[Instance], classes: Sequence[str]
) -> np.ndarray:
    true, predicted = (
        Counter(one.label for one in some if not one.ignored) for some in (truth, predictions)
    )
    entries = [
        (label, f'{classes[label]} {true[label]} | {predicted[label]}')
        for label in sorted({*true, *predicted})
    ]
    line_height, x, y = 28, _GAP, 0
    strip = _strip(width, line_height + 8)
    _text(strip, 'class true | predicted:', (x, y + 24), 0.5)
    x += cv2.getTextSize('class true | predicted:', _FONT, 0.5, 1)[0][0] + 2 * _GAP
    for label, text in entries:
        length = 24 + cv2.getTextSize(text, _FONT, 0.5, 1)[0][0] + 2 * _GAP
        if x + length > width and x > _GAP:
            x, y = _GAP, y + line_height
            strip = np.vstack([strip, _strip(width, line_height)])
        cv2.rectangle(strip, (x, y + 10), (x + 16, y + 26), class_colour(label), cv2.FILLED)
        _text(strip, text, (x + 24, y + 24), 0.5)
        x += length
    return strip
