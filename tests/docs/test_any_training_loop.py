"""The page's first block of code runs as it stands, and its tables are true."""

import re
from pathlib import Path

import torch
from torch import nn

from slab_det.layers import PRepBN, RepBN, copied_norms

PAGE = (Path(__file__).parents[2] / 'docs/any-training-loop.md').read_text()


def test_the_loop_of_the_page_runs(capsys):
    torch.manual_seed(0)
    code = re.search(r'```python\n(.*?)```', PAGE, re.DOTALL)[1]
    batches = [(torch.randn(4, 3, 8), torch.randn(4, 3, 2)) for _ in range(5)]
    names = dict(
        model=nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)),
        loader=batches,
        epochs=2,
        criterion=nn.functional.mse_loss,
    )
    exec(code, names)
    assert '1 of 1 norms folded into another layer' in capsys.readouterr().out
    images = batches[0][0]
    torch.testing.assert_close(names['deployed'](images), names['model'](images))


def test_the_table_of_keys_is_what_loading_does():
    rows = re.findall(
        r'^\| (`.*?) \| (`.*) \|$', PAGE[PAGE.index('| copy | here |') :], re.MULTILINE
    )
    mapping = {}
    for left, right in rows[:4]:
        old, new = re.findall(r'`([^`]*)`', left), re.findall(r'`([^`]*)`', right)
        if right.startswith('`ratio'):
            assert set(old) == {'iter', 'total_step', 'warm'}
            continue
        names = [name for name in old if name != 'RepBN']
        mapping.update({('RepBN' in old, name): to for name, to in zip(names, new, strict=True)})
    assert len(mapping) == 6
    whole, alone = PRepBN(3).state_dict(), RepBN(3).state_dict()
    for only, target in ((False, whole), (True, alone)):
        pairs = {old: new for (is_alone, old), new in mapping.items() if is_alone is only}
        source = {}
        for name, value in target.items():
            for old, new in pairs.items():
                stem, star, _ = new.partition('*')
                if name == new or (star and name.startswith(stem)):
                    source['x.' + name.replace(stem, old.partition('*')[0], 1)] = value
        if not only:
            source.update({'x.iter': torch.tensor(5), 'x.total_step': torch.tensor(10)})
        assert copied_norms(source).keys() == {'x.' + name for name in target}
