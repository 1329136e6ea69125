"""The site builds without a warning and shows every public name."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('sphinx')

from sphinx.util.inventory import InventoryFile

from tests.test_version_0_1 import NAMES

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site as CI builds it: any warning is an error."""
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html'),
            *('-d', folder / 'doctrees', ROOT / 'docs', folder / 'html'),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / 'html'


def test_every_page_has_its_place_in_the_site(site):
    pages = {path.stem for path in (ROOT / 'docs').glob('*.md')} - {'README'}
    assert pages <= {path.stem for path in site.glob('*.html')}
    index = (site / 'index.html').read_text(encoding='utf-8')
    assert {page for page in pages - {'index'} if f'href="{page}.html"' not in index} == set()


def test_every_public_name_of_0_1_is_documented(site):
    with open(site / 'objects.inv', 'rb') as file:
        inventory = InventoryFile.load(file, '', lambda base, path: path)
    documented = {
        name for kind, names in inventory.items() if kind.startswith('py:') for name in names
    }
    missing = {
        name for _, name in NAMES if not any(known.endswith(f'.{name}') for known in documented)
    }
    assert missing == set()
