import logging
import os
import platform
import sys
from importlib.metadata import version

import pytest


def pytest_report_header():
    """The stack, which .ci/run prints and tools/docs/render_stacks.py reads."""
    from slab_det.compat import MM_PACKAGES, STACKS, installed_stack

    pins = STACKS[installed_stack()]
    packages = ['torch', *(pins[name].split('==')[0] for name in MM_PACKAGES), 'timm', 'numpy']
    found = [f'{name} {version(name)}' for name in packages]
    return f'stack: Python {platform.python_version()}, ' + ', '.join(found)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that processes which share the files end together."""
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def mmdet_scope():
    """Names in configs mean mmdet's modules, whatever scope an earlier test left behind."""
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')


@pytest.fixture(autouse=True)
def environment():
    """What a test, or a launcher that it tries, sets in the environment is gone after it."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def loggers():
    """mmengine's loggers keep the standard output of the test that made them, closed where that
    test captured it; they get one that is open."""
    from mmengine.logging import MMLogger

    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stdout


@pytest.fixture(autouse=True)
def visualizers():
    """mmengine keeps one visualizer per class, name and process, which goes on writing where the
    first test that used it did; each test starts without."""
    from mmengine.visualization import Visualizer

    kinds = [Visualizer]
    for kind in kinds:
        kinds += kind.__subclasses__()
        kind._instance_dict.clear()
