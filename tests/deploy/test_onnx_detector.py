"""The self-contained runner: preprocessing and masks as mmdet's, no torch, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='pip install -r requirements/onnx.txt')
pytest.importorskip('onnxruntime', reason='pip install -r requirements/onnx.txt')

from onnx import TensorProto, helper  # noqa: E402

from slab_det.deploy import onnx_detector  # noqa: E402
from slab_det.deploy.onnx_detector import OnnxDetector, draw, paste_masks, read_image  # noqa: E402

SCRIPT = Path(onnx_detector.__file__)


def write_file(path, metadata, masks=False):
    """A file whose detections are two boxes that depend on the image's size: its left half, label
    1, and all of it, label 0."""
    floats = dict(first=[[0, 0, 0.5, 1], [0, 0, 1, 1]], scores=[0.9, 0.4])
    nodes = [
        helper.make_node('Shape', ['image'], ['shape']),
        helper.make_node('Gather', ['shape', 'places'], ['sides']),
        helper.make_node('Cast', ['sides'], ['size'], to=TensorProto.FLOAT),
        helper.make_node('Mul', ['first', 'size'], ['boxes']),
        helper.make_node('Identity', ['scores_'], ['scores']),
        helper.make_node('Identity', ['labels_'], ['labels']),
    ]
    tensors = [
        helper.make_tensor('places', TensorProto.INT64, [4], [2, 1, 2, 1]),
        helper.make_tensor('first', TensorProto.FLOAT, [2, 4], np.ravel(floats['first'])),
        helper.make_tensor('scores_', TensorProto.FLOAT, [2], floats['scores']),
        helper.make_tensor('labels_', TensorProto.INT64, [2], [1, 0]),
    ]
    outputs = [
        helper.make_tensor_value_info('boxes', TensorProto.FLOAT, ['n', 4]),
        helper.make_tensor_value_info('scores', TensorProto.FLOAT, ['n']),
        helper.make_tensor_value_info('labels', TensorProto.INT64, ['n']),
    ]
    if masks:
        logits = np.full((2, 4, 4), -9.0, np.float32)
        logits[:, 2:] = 9
        nodes.append(helper.make_node('Identity', ['masks_'], ['masks']))
        tensors.append(onnx.numpy_helper.from_array(logits, 'masks_'))
        outputs.append(helper.make_tensor_value_info('masks', TensorProto.FLOAT, ['n', 4, 4]))
    image = helper.make_tensor_value_info('image', TensorProto.UINT8, [1, 'h', 'w', 3])
    model = helper.make_model(
        helper.make_graph(nodes, 'g', [image], outputs, tensors),
        opset_imports=[helper.make_opsetid('', 20)],
        ir_version=10,
    )
    if metadata is not None:
        helper.set_model_props(model, {'slab_det': json.dumps(metadata)})
    onnx.save(model, path)
    return path


def metadata(**changes):
    return dict(
        version=1,
        classes=['cat', 'dog'],
        resize=dict(scale=[100, 60], keep_ratio=True),
        size=None,
        mask_threshold=0.5,
        **changes,
    )


def test_boxes_are_in_pixels_of_the_original_image(tmp_path):
    detector = OnnxDetector(write_file(tmp_path / 'a.onnx', metadata()), threads=1)
    found = detector.predict(np.zeros((200, 300, 3), np.uint8))
    assert np.allclose(found.boxes, [[0, 0, 150, 200], [0, 0, 300, 200]], atol=1e-3)
    assert found.names == ['dog', 'cat'] and found.masks is None
    assert found.scores.tolist() == pytest.approx([0.9, 0.4])


def test_a_list_gives_a_list_and_paths_are_images(tmp_path):
    detector = OnnxDetector(write_file(tmp_path / 'a.onnx', metadata(), masks=True), threads=1)
    cv2.imwrite(str(tmp_path / 'b.png'), np.zeros((50, 40, 3), np.uint8))
    first, second = detector.predict([tmp_path / 'b.png', np.zeros((20, 30, 3), np.uint8)])
    assert first.boxes[1].tolist() == pytest.approx([0, 0, 40, 50])
    assert second.masks.shape == (2, 20, 30) and second.masks.dtype == bool
    # The lower half of the box, which is the left half of the image; its corners are rounded off.
    assert second.masks[0][11:19, 1:14].all()
    assert not second.masks[0][:10].any() and not second.masks[0][:, 15:].any()


@pytest.mark.parametrize(
    'scale, keep_ratio', [((100, 60), True), ((60, 100), True), ((97, 61), False)]
)
@pytest.mark.parametrize('size', [(75, 101), (300, 31), (60, 100)])
def test_images_are_resized_as_in_mmdets_pipeline(tmp_path, scale, keep_ratio, size):
    from mmdet.datasets.transforms import Resize

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = Resize(scale=scale, keep_ratio=keep_ratio)(dict(img=image))['img']
    detector = OnnxDetector(
        write_file(
            tmp_path / 'a.onnx',
            dict(metadata(), resize=dict(scale=list(scale), keep_ratio=keep_ratio)),
        )
    )
    assert np.array_equal(detector.preprocess(image), expected)


def test_masks_are_pasted_as_in_mmdet():
    import torch
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    generator = np.random.default_rng(1)
    corner = generator.uniform(-3, 40, (20, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(0.7, 30, (20, 2))], 1).clip(
        0, [60, 45, 60, 45]
    )
    boxes = boxes.astype(np.float32)
    logits = generator.normal(0, 3, (20, 28, 28)).astype(np.float32)
    expected, _ = _do_paste_mask(
        torch.from_numpy(logits).sigmoid()[:, None],
        torch.from_numpy(boxes),
        45,
        60,
        skip_empty=False,
    )
    found = paste_masks(logits, boxes, 45, 60, 0.5)
    # Where the probability is 0.5 but for rounding either answer is right.
    clear = (expected - 0.5).abs().numpy() > 1e-4
    whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert whole.sum() > 15 and found.any()
    assert np.array_equal(
        found[whole] & clear[whole], (expected >= 0.5).numpy()[whole] & clear[whole]
    )
    assert not found[~whole].any()


def test_bad_files_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match='missing.onnx is not a file'):
        OnnxDetector(tmp_path / 'missing.onnx')
    (tmp_path / 'text.onnx').write_text('no model')
    with pytest.raises(ValueError, match='text.onnx is not an ONNX model'):
        OnnxDetector(tmp_path / 'text.onnx')
    with pytest.raises(ValueError, match='holds no description'):
        OnnxDetector(write_file(tmp_path / 'a.onnx', None))
    with pytest.raises(ValueError, match='version 7'):
        OnnxDetector(write_file(tmp_path / 'a.onnx', dict(metadata(), version=7)))
    with pytest.raises(ValueError, match='threads must be'):
        OnnxDetector(write_file(tmp_path / 'a.onnx', metadata()), threads=0)


def test_what_is_no_image_is_refused_in_one_sentence(tmp_path):
    (tmp_path / 'text.jpg').write_text('no image')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    for name, words in (
        ('text.jpg', 'not an image'),
        ('empty.jpg', 'not an image'),
        ('none.jpg', 'not a file'),
    ):
        with pytest.raises(ValueError, match=words):
            read_image(tmp_path / name)
    for array in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match='image array'):
            read_image(array)


def test_a_file_of_one_size_refuses_others(tmp_path):
    detector = OnnxDetector(write_file(tmp_path / 'a.onnx', dict(metadata(), size=[60, 90])))
    assert len(detector.predict(np.zeros((120, 180, 3), np.uint8)).boxes) == 2
    with pytest.raises(ValueError, match='60x90 pixels'):
        detector.predict(np.zeros((120, 120, 3), np.uint8))


def test_draws_boxes_from_the_threshold_up():
    found = onnx_detector.Detections(
        np.array([[5, 30, 40, 60], [260, 30, 290, 60]], np.float32),
        np.array([0.9, 0.2], np.float32),
        np.array([0, 1]),
        ['cat', 'dog'],
        None,
    )
    image = np.zeros((100, 300, 3), np.uint8)
    picture = draw(image, found, 0.5)
    # The width of the name beside the first box depends on OpenCV's font.
    assert picture[60, 20].any() and not picture[:, 255:].any() and not image.any()


def run_script(folder, *arguments):
    """Run a copy of the file in a process that can import neither torch nor this project."""
    copy = folder / 'copied.py'
    copy.write_text(
        'import sys\n'
        'sys.modules.update(dict.fromkeys(("torch", "slab_det", "mmdet", "onnx")))\n'
        + SCRIPT.read_text(encoding='utf-8')
    )
    return subprocess.run(
        [sys.executable, str(copy), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_copy_of_the_script_draws_where_torch_is_not(tmp_path):
    write_file(tmp_path / 'a.onnx', metadata(), masks=True)
    cv2.imwrite(str(tmp_path / 'b.png'), np.zeros((200, 300, 3), np.uint8))
    done = run_script(tmp_path, 'a.onnx', 'b.png', '--out', 'drawn.png')
    assert done.returncode == 0, done.stderr
    assert 'dog 0.900 0.0 0.0 150.0 200.0' in done.stdout
    assert cv2.imread(str(tmp_path / 'drawn.png')).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    'arguments, words',
    [
        (('a.onnx', 'a.onnx', '--out', 'c.png'), 'a.onnx is not an image'),
        (('b.png', 'b.png', '--out', 'c.png'), 'b.png is not an ONNX model'),
        (('a.onnx', 'b.png', '--out', 'c.txt'), 'c.txt must end in'),
        (('a.onnx', 'b.png', '--out', 'no/folder/c.png'), 'cannot be written'),
    ],
)
def test_the_script_fails_in_one_sentence_and_writes_nothing(tmp_path, arguments, words):
    write_file(tmp_path / 'a.onnx', metadata())
    cv2.imwrite(str(tmp_path / 'b.png'), np.zeros((20, 30, 3), np.uint8))
    done = run_script(tmp_path, *arguments)
    assert done.returncode == 1 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.onnx', 'b.png', 'copied.py']


def test_names_that_opencv_cannot_draw_are_numbers():
    found = [
        onnx_detector.Detections(
            np.array([[10, 20, 60, 50]], np.float32), np.array([0.5]), np.array([1]), [name], None
        )
        for name in ('猫', '#1', '???')
    ]
    pictures = [draw(np.zeros((80, 90, 3), np.uint8), one) for one in found]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
