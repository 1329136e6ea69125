"""Values of options that a tool cannot use are refused before it reads anything."""

import pytest

from tests.scripts import caller, load_script

CHECKPOINT = ('config.py', 'checkpoint.pth')
CALIBRATE = (*CHECKPOINT, '--out', 'x.pth')
WHOLE = "got '0', give a whole number of at least 1"
SCORE = "got '1.5', give a number from 0 to 1"
PICTURE = 'give a name that ends in .png or .svg or .pdf'


@pytest.mark.parametrize(
    'tool, arguments, words',
    [
        ('test', (*CHECKPOINT, '--out', 'p.json'), "got 'p.json', give a name that ends in .pkl"),
        ('test', (*CHECKPOINT, '--wait-time', '-1'), 'give a number of at least 0'),
        ('visualize', (*CHECKPOINT, '--num', '-1'), 'give a whole number of at least 0'),
        ('visualize', (*CHECKPOINT, '--num', '1.5'), "got '1.5', give a whole number"),
        ('visualize', (*CHECKPOINT, '--score-thr', '1.5'), SCORE),
        ('image_demo', ('images', 'config.py', '--score-thr', '1.5'), SCORE),
        ('image_demo', ('images', 'config.py', '--score-thr', 'nan'), 'give a number from 0 to 1'),
        ('image_demo', ('images', 'config.py', '--batch-size', '0'), WHOLE),
        ('image_demo', ('images', 'config.py', '--device', 'gpu'), 'gpu cannot be used'),
        ('calibrate_bn', (*CALIBRATE, '--num-images', '0'), WHOLE),
        ('calibrate_bn', (*CALIBRATE, '--tolerance', '-1'), 'give a number of at least 0'),
        ('calibrate_bn', (*CALIBRATE, '--device', 'cuda:99'), 'cuda:99 cannot be used'),
        ('get_flops', ('config.py', '--shape', '0', '5'), WHOLE),
        ('get_flops', ('config.py', '--out', 'x.txt'), "got 'x.txt', give a name that ends in .md"),
        ('reparameterize', (*CALIBRATE, '--shape', '5', '0'), WHOLE),
        ('export_onnx', CALIBRATE, "got 'x.pth', give a name that ends in .onnx"),
        ('export_onnx', (*CHECKPOINT, '--out', 'x.onnx', '--size', '0', '5'), WHOLE),
        ('quantize_onnx', ('x.onnx', '--calib', 'images', '--num', '-1'), 'of at least 0'),
        ('quantize_onnx', ('x.onnx', '--calib', 'images', '--out', 'x'), 'ends in .onnx'),
        ('test_onnx', ('config.py', 'x.onnx', '--threads', '0'), WHOLE),
        ('print_config', ('config.py', '--save-path', 'x.txt'), 'ends in .py or .json'),
        ('make_dataset', ('shapes', '--train', '0'), WHOLE),
        ('make_dataset', ('shapes', '--size', '8', '80'), 'a whole number of at least 64'),
        ('analysis/plot_schedule', ('config.py', '--gpus', '0'), WHOLE),
        ('analysis/plot_schedule', ('config.py', '--out', 's.jpg'), PICTURE),
        ('analysis/coco_errors', ('r.json', 't.json', '--out', 'e.gif'), PICTURE),
        ('analysis/feature_maps', ('a.png', 'config.py', '--out', 'x.bmp'), PICTURE),
    ],
)
def test_wrong_values_are_named_with_what_would_be_right(
    tool, arguments, words, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    code, out, error = caller(load_script(f'tools/{tool}.py'), monkeypatch, capsys)(*arguments)
    assert code == 2 and not out and words in error.splitlines()[-1]
    assert not list(tmp_path.iterdir())
