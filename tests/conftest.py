import pytest


@pytest.fixture(autouse=True)
def mmdet_scope():
    """Names in configs mean mmdet's modules, whatever scope an earlier test left behind."""
    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
