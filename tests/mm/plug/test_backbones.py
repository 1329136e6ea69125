"""Names of backbones, and what docs/plug-in.md says of their maps."""

from pathlib import Path

import pytest
import timm

from slab_det.cli import InputError
from slab_det.cli.tables import markdown_table
from slab_det.mm.plug.backbones import backbone_config, build, known_backbones, maps_of, table_rows

GUIDE = Path(__file__).parents[3] / 'docs/plug-in.md'
HEADER = ('backbone', 'type', 'arch', 'attn_types', 'channels', 'strides')


@pytest.mark.parametrize(
    'name, arch, attn',
    [
        ('slab-swin-t', 'tiny', 'LLSS'),
        ('swin-b-prepbn', 'base', 'SSSS'),
        ('slab-pvt-m', 'medium', 'LLLL'),
        ('slab-pvt-v2-b3', 'b3', 'LLLL'),
        ('slab-deit-s', 'small', 'L'),
        ('slab-cswin-s', 'small', 'LLSS'),
    ],
)
def test_a_name_is_family_size_and_attention(name, arch, attn):
    config = backbone_config(name)
    assert (config['arch'], config['attn_types'], config['norm_cfg']) == (
        arch,
        attn,
        {'type': 'PRepBN'},
    )


@pytest.mark.parametrize('spelling', ['slab_pvt_v2_b0', 'slab-pvtv2-b0', 'SLAB-PVT-V2-B0'])
def test_other_spellings_and_timms_names_mean_the_same(spelling):
    assert backbone_config(spelling) == backbone_config('slab-pvt-v2-b0')
    assert backbone_config('swin_tiny_prepbn') == backbone_config('swin-t-prepbn')


def test_every_transformer_of_timms_registry_has_a_name():
    ours = timm.list_models(module='swin') and [
        name
        for name in timm.list_models()
        if timm.models.model_entrypoint(name).__module__.startswith('slab_det.')
    ]
    assert len(known_backbones()) == len(ours) > 20


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        InputError, match='^backbone slab-swn-t is not known: the nearest is slab-swin-t'
    ):
        backbone_config('slab-swn-t')


def test_attention_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match='^attn LLS does not fit slab-swin-t: .*attn_types'):
        backbone_config('slab-swin-t', attn='LLS')
    assert backbone_config('slab-swin-t', 'ln', 'ssss')['attn_types'] == 'SSSS'


@pytest.mark.parametrize(
    'name', ['slab-swin-t', 'slab-pvt-t', 'slab-pvt-v2-b0', 'slab-deit-t', 'slab-cswin-t']
)
def test_the_table_tells_what_the_built_backbone_returns(name):
    row = next(row for row in table_rows() if row[0] == name)
    maps = maps_of(build(backbone_config(name)))
    assert row[4:] == (
        ', '.join(str(one[1]) for one in maps),
        ', '.join(str(one[2]) for one in maps),
    )


def test_the_guide_holds_the_table():
    rows = [(f'`{row[0]}`', f'`{row[1]}`', *row[2:]) for row in table_rows()]
    assert markdown_table(HEADER, rows, 'llllll') in GUIDE.read_text()
