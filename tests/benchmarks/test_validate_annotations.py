import sys
from pathlib import Path

from slab_det.mm.data import Annotations, Use, read_annotations
from tests.scripts import load_script


def test_the_generated_file_is_sound_and_both_peers_read_it(tmp_path, monkeypatch, capsys):
    script = load_script('benchmarks/validate_annotations.py')
    path = tmp_path / 'a.json'
    script.generate(path, 30, 400)
    report = Annotations(str(path), read_annotations(str(path), '--ann')).report(Use())
    assert report.findings == [] and report.annotations_kept == 400
    assert report.images == 30 and len(report.classes) == 80
    monkeypatch.setattr(sys, 'argv', ['validate', '--file', str(path), '--repeats', '1'])
    script.main()
    assert 'ratio' in capsys.readouterr().out and Path(path).exists()
