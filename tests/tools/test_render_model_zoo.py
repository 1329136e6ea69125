"""The page that tools/render_model_zoo.py makes of metafiles."""

import pytest
import yaml
from mmdet.registry import MODELS

from slab_det.mm.analysis import backbone_cost
from tests.scripts import caller, load_script

ARCH = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/render_model_zoo.py')


@pytest.fixture
def render(tool, monkeypatch, capsys):
    """Run the tool; return its exit code, what it printed, and its errors."""
    return caller(tool, monkeypatch, capsys)


@pytest.fixture
def project(tmp_path):
    """An index with one family of two backbones and two configs, one of them measured."""
    backbone = dict(type='SLABSwinTransformer', arch=ARCH)
    models = [
        dict(
            Name='one_coco',
            Config='configs/family/one_coco.py',
            Metadata=dict(Backbone='small', Epochs=12),
        ),
        dict(
            Name='two_coco',
            Config='configs/family/two_coco.py',
            Metadata=dict(Backbone='small', Epochs=36),
            Results=[dict(Task='Object Detection', Dataset='COCO', Metrics={'box AP': 41.2})],
        ),
    ]
    collection = dict(
        Name='Family',
        Backbones=[
            {
                'Name': 'small',
                'Config': backbone,
                'Top 1 Accuracy': 70,
                'Weights': 'https://example.org/x/small.pth',
            },
            {'Name': 'other', 'Config': {**backbone, 'attn_types': 'SSSS'}},
        ],
    )
    (tmp_path / 'configs/family').mkdir(parents=True)
    (tmp_path / 'docs').mkdir()
    content = yaml.safe_dump(dict(Collections=[collection], Models=models))
    (tmp_path / 'configs/family/metafile.yml').write_text(content)
    (tmp_path / 'model-index.yml').write_text(
        yaml.safe_dump(dict(Import=['configs/family/metafile.yml']))
    )
    return tmp_path


def options(project):
    return '--index', project / 'model-index.yml', '--out', project / 'docs/zoo.md'


def cells(page, start):
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_a_row_holds_what_the_metafile_says_and_what_the_backbone_costs(render, project):
    code, _, err = render(*options(project))
    assert (code, err) == (0, '')
    page = (project / 'docs/zoo.md').read_text()
    cost = backbone_cost(MODELS.build(dict(type='SLABSwinTransformer', arch=ARCH)), (800, 1216))
    assert cells(page, '| Family | `small`')[2:] == [
        f'{cost.parameters / 1e6:.1f} M',
        f'{cost.multiply_adds / 1e9:.1f} G',
        '70.0',
        '[small.pth](https://example.org/x/small.pth)',
        '[one_coco](../configs/family/one_coco.py)<br>[two_coco](../configs/family/two_coco.py)',
    ]
    assert cells(page, '| Family | `other`')[4:] == ['–', '–', '–']


def test_only_measured_configs_have_results(render, project):
    render(*options(project))
    page = (project / 'docs/zoo.md').read_text()
    assert cells(page, '| [two_coco]') == [
        '[two_coco](../configs/family/two_coco.py)',
        '36',
        '41.2',
        '–',
    ]
    assert '\n| [one_coco]' not in page and 'No COCO results' not in page


def test_check_writes_nothing_and_notices_an_old_page(render, project):
    page = project / 'docs/zoo.md'
    code, _, err = render(*options(project), '--check')
    assert (
        code == 1
        and 'is out of date: run python tools/render_model_zoo.py' in err
        and not page.exists()
    )
    render(*options(project))
    code, _, err = render(*options(project), '--check')
    assert (code, err) == (0, '')
    page.write_text(page.read_text() + 'x')
    assert render(*options(project), '--check')[0] == 1


@pytest.mark.parametrize(
    'file, text, words',
    [
        ('model-index.yml', 'Import: [configs/none.yml]', 'none.yml cannot be read: No such file'),
        ('model-index.yml', 'Import: {', 'model-index.yml is not an index or metafile'),
        ('configs/family/metafile.yml', 'Models: []', 'metafile.yml is not an index or metafile'),
    ],
)
def test_bad_metafiles_end_in_one_sentence(render, project, file, text, words):
    (project / file).write_text(text)
    code, _, err = render(*options(project))
    assert code == 1 and words in err and err.count('\n') == 1
    assert list((project / 'docs').iterdir()) == []


@pytest.mark.slow
def test_the_page_of_the_project_is_up_to_date(render):
    code, _, err = render('--check')
    assert (code, err) == (0, '')
