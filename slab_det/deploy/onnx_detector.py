"""Run a detector that tools/export_onnx.py wrote. Needs onnxruntime, numpy and cv2, nothing else:
copy this file where torch is not.

    python onnx_detector.py detector.onnx image.jpg --out drawn.png --score-thr 0.3
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

import cv2
import numpy as np
import onnxruntime

Image = Union[str, os.PathLike, np.ndarray]


class Detections(NamedTuple):
    """What a detector found in one image, falling by score.

    Attributes:
        boxes: ``(K, 4)`` float32, x1, y1, x2, y2 in pixels of the image.
        scores: ``(K, )`` float32.
        labels: ``(K, )`` int64.
        names: class name of each box.
        masks: ``(K, H, W)`` bool in the image's size, or None where the detector has no masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: list[str]
    masks: np.ndarray | None


class OnnxDetector:
    """A detector in an ONNX file.

    Args:
        path: the file.
        threads: threads of onnxruntime; by default as many as there are cores.

    Raises:
        ValueError: the file is missing, is no ONNX model, or was not written by this project.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None) -> None:
        if not os.path.isfile(path):
            raise ValueError(f'{path} is not a file; give an ONNX file of tools/export_onnx.py.')
        if threads is not None and threads < 1:
            raise ValueError(f'threads must be 1 or more, but got {threads}.')
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Attention masks leave weights of 1e-39, on which processors compute many times slower.
        options.add_session_config_entry('session.set_denormal_as_zero', '1')
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # onnxruntime has an exception of its own per status
            reason = str(error).split('\n')[0]
            raise ValueError(
                f'{path} is no ONNX model that onnxruntime can run: {reason}'
            ) from error
        self._metadata = self._read_metadata(path)
        self.classes: list[str] = self._metadata['classes']
        self.output_names = [output.name for output in self.session.get_outputs()]

    def _read_metadata(self, path) -> dict[str, Any]:
        text = self.session.get_modelmeta().custom_metadata_map.get('slab_det')
        if text is None:
            raise ValueError(
                f'{path} holds no description of its images and classes; give an ONNX '
                'file of tools/export_onnx.py.'
            )
        metadata = json.loads(text)
        if metadata.get('version') != 1:
            raise ValueError(
                f'{path} is of version {metadata.get("version")}, but this code reads '
                'version 1; use the onnx_detector.py of the project that wrote it.'
            )
        return metadata

    def predict(self, image: Image | Sequence[Image]) -> Detections | list[Detections]:
        """Detect on an image, or on every image of a list.

        Args:
            image: a path, or an array ``(H, W, 3)`` of bytes, blue, green, red; or a list of these.

        Raises:
            ValueError: something is not an image.
        """
        if isinstance(image, (list, tuple)):
            return [self.predict(one) for one in image]
        pixels = read_image(image)
        height, width = pixels.shape[:2]
        resized = self.preprocess(pixels)
        outputs = dict(zip(self.output_names, self.session.run(None, {'image': resized[None]})))
        scale = np.array([resized.shape[1] / width, resized.shape[0] / height] * 2, np.float32)
        boxes = outputs['boxes'] / scale
        masks = None
        if 'masks' in outputs:
            masks = paste_masks(
                outputs['masks'], boxes, height, width, self._metadata['mask_threshold']
            )
        labels = outputs['labels']
        return Detections(
            boxes, outputs['scores'], labels, [self.classes[i] for i in labels], masks
        )

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        """Resize ``(H, W, 3)`` bytes as the detector's test pipeline does. The rest of the
        preprocessing is part of the graph."""
        resize, fixed = self._metadata['resize'], self._metadata['size']
        height, width = pixels.shape[:2]
        if resize is not None:
            goal_w, goal_h = resize['scale']
            if resize['keep_ratio']:
                scale = min(
                    max(resize['scale']) / max(height, width),
                    min(resize['scale']) / min(height, width),
                )
                goal_w, goal_h = int(width * scale + 0.5), int(height * scale + 0.5)
            goal_w, goal_h = max(goal_w, 1), max(goal_h, 1)
            pixels = cv2.resize(pixels, (goal_w, goal_h), interpolation=cv2.INTER_LINEAR)
        if fixed is not None and list(pixels.shape[:2]) != fixed:
            raise ValueError(
                f'the file takes images of {fixed[0]}x{fixed[1]} pixels (height x width) only, but '
                f'{height}x{width} becomes {pixels.shape[0]}x{pixels.shape[1]}; export a file '
                'without --size.'
            )
        return np.ascontiguousarray(pixels)


def read_image(image: Image) -> np.ndarray:
    """Return ``(H, W, 3)`` bytes, blue, green, red, of a path or such an array.

    Raises:
        ValueError: it is not an image.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                'an image array must be (H, W, 3) uint8, blue, green, red, but got '
                f'{image.shape} {image.dtype}.'
            )
        return image
    if not os.path.isfile(image):
        raise ValueError(f'{image} is not a file; give an image.')
    pixels = (
        cv2.imdecode(np.fromfile(image, np.uint8), cv2.IMREAD_COLOR)
        if os.path.getsize(image)
        else None
    )
    if pixels is None:
        raise ValueError(f'{image} is not an image that OpenCV can read.')
    return pixels


def paste_masks(
    logits: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float
) -> np.ndarray:
    """Return masks ``(K, height, width)`` of logits ``(K, h, w)`` in boxes ``(K, 4)``.

    A pixel's probability is interpolated bilinearly between the centres of the mask's cells; outside
    of the mask it is 0.
    """
    masks = np.zeros((len(logits), height, width), bool)
    for mask, cells, box in zip(masks, logits, boxes):
        x1, y1, x2, y2 = box
        if x2 <= x1 or y2 <= y1:
            continue
        top, bottom = max(int(np.floor(y1)) - 1, 0), min(int(np.ceil(y2)) + 1, height)
        left, right = max(int(np.floor(x1)) - 1, 0), min(int(np.ceil(x2)) + 1, width)
        # expit without overflow.
        cells = 0.5 * (1 + np.tanh(0.5 * cells.astype(np.float32)))
        rows = _interpolation(top, bottom, y1, y2, cells.shape[0])
        columns = _interpolation(left, right, x1, x2, cells.shape[1])
        mask[top:bottom, left:right] = rows @ cells @ columns.T >= threshold
    return masks


def _interpolation(start: int, stop: int, low: float, high: float, cells: int) -> np.ndarray:
    """Return ``(stop - start, cells)``: weights of the cells between ``low`` and ``high`` at the
    centres of pixels ``start`` to ``stop``."""
    position = (np.arange(start, stop, dtype=np.float32) + 0.5 - low) / (high - low) * cells - 0.5
    distance = np.abs(position[:, None] - np.arange(cells, dtype=np.float32))
    return np.maximum(1 - distance, 0)


def draw(pixels: np.ndarray, detections: Detections, score_thr: float = 0.3) -> np.ndarray:
    """Return a copy of ``pixels`` with the detections from ``score_thr`` up drawn on it."""
    picture = pixels.copy()
    line = max(1, round(max(picture.shape[:2]) / 500))
    for i in np.flatnonzero(detections.scores >= score_thr)[::-1]:
        color = _color(int(detections.labels[i]))
        if detections.masks is not None:
            inside = detections.masks[i]
            picture[inside] = (0.55 * picture[inside] + 0.45 * np.array(color)).astype(np.uint8)
        x1, y1, x2, y2 = (int(round(float(side))) for side in detections.boxes[i])
        cv2.rectangle(picture, (x1, y1), (x2, y2), color, line)
        name = detections.names[i]
        # OpenCV's font has the letters of ASCII.
        name = name if name.isascii() else f'#{detections.labels[i]}'
        text = f'{name} {detections.scores[i]:.2f}'
        (text_w, text_h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line, line)
        y1 = max(y1, text_h + base)
        cv2.rectangle(picture, (x1, y1 - text_h - base), (x1 + text_w, y1), color, -1)
        cv2.putText(
            picture,
            text,
            (x1, y1 - base // 2),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.4 * line,
            (255, 255, 255),
            line,
            cv2.LINE_AA,
        )
    return picture


def _color(label: int) -> tuple:
    """Return a colour per label; neighbours differ by the golden angle of the colour circle."""
    hue = np.array([[[label * 111 % 180, 200, 180]]], np.uint8)
    return tuple(int(part) for part in cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0])


def write_image(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Write an image whole or not at all.

    Raises:
        ValueError: the name's ending is none that OpenCV writes, or the file cannot be written.
    """
    path = os.fspath(path)
    ending = os.path.splitext(path)[1]
    if not ending or not cv2.haveImageWriter(f'a{ending}'):
        raise ValueError(
            f'--out {path} must end in .png, .jpg or another ending that OpenCV writes.'
        )
    done, content = cv2.imencode(ending, pixels)
    if not done:
        raise ValueError(f'--out {path}: OpenCV could not encode the picture as {ending}.')
    # Not by slab_det.files, because this file is copied without the package.
    part = f'{path}.part{os.getpid()}'
    try:
        with open(part, 'wb') as file:
            file.write(content.tobytes())
        os.replace(part, path)
    except OSError as error:
        if os.path.exists(part):
            os.remove(part)
        raise ValueError(f'--out {path} cannot be written: {error.strerror}.') from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Detect on one image and draw what was found."""
    parser = argparse.ArgumentParser(description='Detect on an image and draw what was found')
    parser.add_argument('file', help='ONNX file of tools/export_onnx.py')
    parser.add_argument('image', help='image file')
    parser.add_argument('--out', required=True, metavar='FILE', help='picture to write')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='S',
        help='leave out what scores below (default: %(default)s)',
    )
    parser.add_argument('--threads', type=int, help='threads (default: one per core)')
    args = parser.parse_args(arguments)
    try:
        detector = OnnxDetector(args.file, args.threads)
        pixels = read_image(args.image)
        detections = detector.predict(pixels)
        write_image(args.out, draw(pixels, detections, args.score_thr))
    except ValueError as error:
        sys.exit(f'error: {error}')
    for box, score, name in zip(detections.boxes, detections.scores, detections.names):
        if score >= args.score_thr:
            print(f'{name} {score:.3f} ' + ' '.join(f'{side:.1f}' for side in box))
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
