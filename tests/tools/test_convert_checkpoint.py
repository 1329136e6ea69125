import pytest
import torch
from safetensors.torch import save_file

from slab_det.checkpoints import load_into
from slab_det.cli.errors import run
from slab_det.models import PyramidVisionTransformer
from tests.scripts import load_script

PVT = dict(
    embed_dims=(8, 16),
    depths=(1, 1),
    num_heads=(1, 2),
    mlp_ratios=(2, 2),
    attn_types='LS',
    img_size=32,
    num_classes=5,
)


@pytest.fixture
def convert(monkeypatch):
    tool = load_script('tools/convert_checkpoint.py')

    def call(*arguments):
        monkeypatch.setattr('sys.argv', ['convert_checkpoint.py', *map(str, arguments)])
        run(tool.main, tool.parse_args())

    return call


@pytest.fixture
def source(tmp_path):
    model = PyramidVisionTransformer(**PVT)
    weights = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    torch.save({'state_dict': weights}, tmp_path / 'src.pth')
    return tmp_path / 'src.pth'


def test_prints_what_became_of_every_entry_and_writes_the_file(convert, source, tmp_path, capsys):
    convert(
        source,
        tmp_path / 'dst.pth',
        '--prefix',
        'backbone.',
        '--resize-grids',
        '48',
        '80',
        '--drop-classifier',
    )
    rows = capsys.readouterr().out.splitlines()
    model = PyramidVisionTransformer(**{**PVT, 'img_size': (48, 80), 'num_classes': 0})
    assert len([row for row in rows if row.startswith(('used', 'resized'))]) == len(
        model.state_dict()
    )
    assert 'resized  layers.1.absolute_pos_embed (1, 60, 16)' in rows
    assert '3 resized, 0 ignored, 0 missing; PRepBN ratio 1' in rows[-3]
    assert "attn_types='LS', sr_ratios=(1, 4), img_size=(48, 80)" in rows[-2]
    assert rows[-1] == f'wrote {tmp_path / "dst.pth"}'
    load_into(model, str(tmp_path / 'dst.pth'))


@pytest.mark.parametrize(
    'flags, place, shift',
    [((), 'model', 0), (('--ema',), 'model_ema', 1), (('--no-ema',), 'model', 0)],
)
def test_plain_or_averaged_weights_are_taken_as_asked_and_named(
    convert, tmp_path, capsys, flags, place, shift
):
    plain = PyramidVisionTransformer(**PVT).state_dict()
    averaged = {
        f'module.{key}': value + 1 if value.is_floating_point() else value
        for key, value in plain.items()
    }
    torch.save({'model': plain, 'model_ema': averaged}, tmp_path / 'both.pth')
    convert(tmp_path / 'both.pth', tmp_path / 'dst.pth', '--quiet', *flags)
    assert f'weights of {place!r} taken' in capsys.readouterr().out
    found = torch.load(tmp_path / 'dst.pth', weights_only=True)['state_dict']
    key = 'patch_embed.proj.weight'
    assert torch.equal(found[key], plain[key] + shift)


@pytest.mark.parametrize('prefix', ['_orig_mod.', 'module._orig_mod.', 'model.'])
def test_safetensors_and_wrapped_names_are_converted(convert, tmp_path, capsys, prefix):
    plain = PyramidVisionTransformer(**PVT).state_dict()
    save_file({prefix + key: value for key, value in plain.items()}, tmp_path / 'model.safetensors')
    convert(tmp_path / 'model.safetensors', tmp_path / 'dst.pth', '--quiet')
    found = torch.load(tmp_path / 'dst.pth', weights_only=True)['state_dict']
    assert all(torch.equal(found[key], value) for key, value in plain.items())


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('no.pth', 'dst.pth'), 'SRC no.pth is not a file: give the path of a checkpoint'),
        (('src.pth', 'src.pth'), 'DST src.pth is SRC itself: give another path'),
        (('src.pth', 'dst.pth'), "looks like a whole detector: pass prefix='backbone.'"),
        (
            ('src.pth', 'none/dst.pth', '--prefix', 'backbone.'),
            'DST none/dst.pth lies in a folder that does not',
        ),
        (
            ('src.pth', 'dst.pth', '--prefix', 'backbone.', '--family', 'deit'),
            'pass family pvt or auto',
        ),
    ],
)
def test_bad_input_ends_with_one_sentence_and_no_file(
    convert, source, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    before = source.read_bytes()
    with pytest.raises(SystemExit) as stop:
        convert(*arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 1 and message in error and error.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == [
        'src.pth'
    ] and source.read_bytes() == before


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('a', 'b', '--family', 'resnet'), "invalid choice: 'resnet'"),
        (
            ('a', 'b', '--resize-grids', '0', '5'),
            '--resize-grids takes a height and width in pixels',
        ),
        (('a', 'b', '--resize-grids', '5'), 'expected 2 arguments'),
    ],
)
def test_bad_arguments_are_named(convert, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        convert(*arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err
