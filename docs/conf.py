"""Settings of the site: ``python -m sphinx -W -b html docs site``."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')

from slab_det.version import __version__  # noqa: E402

project = 'slab-det'
release = __version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax', 'sphinx.ext.napoleon']
exclude_patterns = ['README.md']  # index.md includes it
html_theme = 'alabaster'
html_theme_options = {'page_width': '1100px'}
html_copy_source = False

# Links to the headings of a page, as GitHub makes them.
myst_heading_anchors = 4

autodoc_typehints = 'none'  # shapes and units say more than Tensor
autodoc_member_order = 'groupwise'
autodoc_default_options = {'members': True}
napoleon_custom_sections = ['Shapes']
napoleon_use_ivar = True
add_module_names = False
