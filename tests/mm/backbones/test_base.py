"""What all backbones share."""

from types import SimpleNamespace

import pytest
from mmdet.engine.hooks import NumClassCheckHook

from tests import tiny_backbones


@pytest.mark.parametrize('family', tiny_backbones.FAMILIES)
def test_mmdets_check_of_classes_meets_no_classifier(family):
    dataset = SimpleNamespace(metainfo=dict(classes=('disk', 'box')))
    runner = SimpleNamespace(
        model=tiny_backbones.build(family), train_dataloader=SimpleNamespace(dataset=dataset)
    )
    NumClassCheckHook().before_train_epoch(runner)
