import os

import pytest


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
