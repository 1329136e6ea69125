"""tools/check_data.py: tables, pictures, corrected copies, and nothing changed in place."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from slab_det.mm.data import images as image_files
from slab_det.mm.datasets import make_shapes_dataset
from tests.scripts import caller, load_script

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/mini/retinanet_slab-swin_mini_shapes.py'


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    make_shapes_dataset(str(tmp_path / 'shapes'), 3, 2, (64, 80))
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    return caller(load_script('tools/check_data.py'), monkeypatch, capsys)


def train_file(change=None):
    path = Path('shapes/annotations/instances_train.json')
    content = json.loads(path.read_text())
    if change is not None:
        change(content)
        path.write_text(json.dumps(content))
    return path, content


def test_every_file_of_a_config_has_a_table(call):
    code, out, err = call(CONFIG)
    assert code == 0 and 'error' not in err
    for setting in ('train_dataloader.dataset', 'val_dataloader.dataset', 'test_evaluator'):
        assert f'{setting}.ann_file' in out
    _, content = train_file()
    assert f'3 of 3 images, {len(content["annotations"])} of' in out and 'triangle' in out


def test_faults_are_in_the_table_and_end_with_exit_code_1(call):
    def spoil(content):
        content['annotations'][0]['bbox'] = None
        content['annotations'][1]['area'] = 0

    path, content = train_file(spoil)
    before = path.read_bytes()
    code, out, err = call('--ann', path, '--images', 'shapes/train')
    assert code == 1 and err == 'error: 1 kinds of faults would be refused, see the table\n'
    assert 'bbox of four finite' in ' '.join(out.split()) and 'area of 0' in ' '.join(out.split())
    assert path.read_bytes() == before


def test_a_corrected_copy_is_sound(call):
    def spoil(content):
        for one in content['annotations']:
            del one['iscrowd'], one['area']
            one['id'] = 7

    path, _ = train_file(spoil)
    before = path.read_bytes()
    code, out, err = call('--ann', path, '--images', 'shapes/train', '--fix', 'new/fixed.json')
    assert code == 0, err
    assert 'annotations numbered from 1' in out and 'iscrowd written as 0 or 1' in out
    assert path.read_bytes() == before
    fixed = json.loads(Path('new/fixed.json').read_text())['annotations']
    assert [one['id'] for one in fixed] == list(range(1, len(fixed) + 1))
    assert {one['iscrowd'] for one in fixed} == {0} and min(one['area'] for one in fixed) > 0
    code, _, err = call('--ann', path, '--fix', 'new/fixed.json')
    assert code == 1 and '--fix new/fixed.json exists' in err


def test_categories_are_put_in_the_order_of_the_classes(call):
    path, content = train_file()
    names = [one['name'] for one in content['categories']][::-1]
    code, out, _ = call('--ann', path, '--classes', *names)
    assert code == 1 and 'another order' in ' '.join(out.split())
    code, out, _ = call('--ann', path, '--classes', *names, '--fix', 'fixed.json')
    assert code == 0
    fixed = json.loads(Path('fixed.json').read_text())
    assert [one['name'] for one in fixed['categories']] == names
    assert fixed['annotations'] == content['annotations']


def test_images_are_decoded_once_while_they_do_not_change(call, monkeypatch):
    path, content = train_file()
    before = sorted(Path('shapes').rglob('*'))
    looked = []
    plain = image_files.look_at

    def look(path, whole=True):
        if whole:
            looked.append(Path(path).name)
        return plain(path, whole)

    monkeypatch.setattr(image_files, 'look_at', look)
    words = ('--ann', path, '--images', 'shapes/train', '--check-images')
    assert call(*words)[0] == 0 and len(looked) == 3
    assert call(*words)[0] == 0 and len(looked) == 3
    name = content['images'][1]['file_name']
    whole = Path('shapes/train', name).read_bytes()
    Path('shapes/train', name).write_bytes(whole[: len(whole) // 2])
    code, out, _ = call(*words)
    assert code == 1 and looked[3:] == [name]
    assert '1 of 3 images cannot be decoded' in ' '.join(out.split())
    assert sorted(Path('shapes').rglob('*')) == before


def test_a_cut_jpeg_is_damaged(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'a.jpg')
    assert image_files.look_at(tmp_path / 'a.jpg').size(True) == (90, 80)
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content[: len(content) // 2])
    assert image_files.look_at(tmp_path / 'a.jpg').fault
    assert not image_files.look_at(tmp_path / 'a.jpg', whole=False).fault


def test_formats_and_tags_that_pillow_does_not_read(tmp_path):
    noise = np.random.default_rng(0).random((30, 40, 3)).astype(np.float32)
    (tmp_path / 'a.hdr').write_bytes(cv2.imencode('.hdr', noise)[1].tobytes())
    assert image_files.look_at(tmp_path / 'a.hdr')[:3] == (40, 30, 1)
    Image.new('RGB', (40, 30)).save(tmp_path / 'b.jpg', exif=b'Exif\0\0II*\0\xff\xff\xff\xff')
    assert image_files.look_at(tmp_path / 'b.jpg') == (40, 30, 1, '')
    (tmp_path / 'c.jpg').write_bytes(b'')
    assert image_files.look_at(tmp_path / 'c.jpg').fault


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_is_that_of_opencv(tmp_path, orientation):
    image = Image.new('RGB', (40, 20))
    tags = image.getexif()
    tags[0x0112] = orientation
    image.save(tmp_path / 'a.jpg', exif=tags)
    height, width = cv2.imread(str(tmp_path / 'a.jpg')).shape[:2]
    assert image_files.look_at(tmp_path / 'a.jpg').size(True) == (width, height)
    assert image_files.look_at(tmp_path / 'a.jpg').size(False) == (40, 20)


def test_suspicious_images_are_drawn(call):
    def spoil(content):
        content['annotations'][0]['area'] = 0
        image = content['images'][0]
        Path('shapes/train/cam').mkdir()
        Path('shapes/train', image['file_name']).rename(Path('shapes/train/cam', 'a.png'))
        image['file_name'] = 'cam/a.png'
        content['annotations'][0]['image_id'] = image['id']

    path, _ = train_file(spoil)
    code, out, _ = call('--ann', path, '--images', 'shapes/train', '--draw', 'pictures')
    assert code == 0 and '1 pictures in pictures' in out
    assert [one.name for one in Path('pictures').iterdir()] == ['cam__a.png.png']


def test_arguments_must_fit(call):
    assert call('--ann', 'gone.json')[:2] == (1, '')
    assert 'gone.json is not a file' in call('--ann', 'gone.json')[2]
    path, _ = train_file()
    assert '--images gone is not a folder' in call('--ann', path, '--images', 'gone')[2]
    for words in ([], [CONFIG, '--ann', path], [CONFIG, '--fix', 'x.json']):
        with pytest.raises(SystemExit):
            load_script('tools/check_data.py').parse_args([str(word) for word in words])
