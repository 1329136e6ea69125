"""The examples run, learn, and end with a folded network of the same output."""

import re
import sys

import pytest

from tests.scripts import load_script


def output_of(name, monkeypatch, capsys, *arguments):
    script = load_script(f'examples/{name}.py')
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, arguments)])
    script.main()
    return capsys.readouterr().out


def number_after(words, text):
    return float(re.search(re.escape(words) + r'\D*?([\d.]+(?:e-?\d+)?)', text)[1])


@pytest.mark.parametrize('name', ['plain_loop', 'timm_classifier'])
def test_classifiers(name, monkeypatch, capsys):
    text = output_of(name, monkeypatch, capsys, '--iterations', 60)
    losses = [float(loss) for loss in re.findall(r'loss ([\d.]+)', text)]
    assert losses[-1] < losses[0]
    # Guessing finds a quarter or a third.
    assert number_after('accuracy', text) > 0.5
    assert '4 of 5 norms folded into another layer' in text
    assert number_after('largest difference of the logits:', text) < 1e-5


@pytest.mark.slow
def test_rt_detr(monkeypatch, capsys, tmp_path):
    pytest.importorskip('transformers')
    pytest.importorskip('onnxruntime')
    path = tmp_path / 'rt_detr.onnx'
    text = output_of('rt_detr', monkeypatch, capsys, '--out', path)
    first, last = map(float, re.search(r'loss ([\d.]+) in .*, ([\d.]+) in', text).groups())
    assert last < 0.9 * first
    assert '9 LayerNorm became PRepBN' in text and '0 of 9 norms folded' in text
    assert number_after('largest difference of a box (sides of the image are 1):', text) < 1e-5
    assert path.is_file() and number_after('boxes differ by', text) < 1e-4
