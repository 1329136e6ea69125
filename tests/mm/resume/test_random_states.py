import io
import random

import numpy as np
import pytest
import torch

from slab_det.mm.resume.random_states import capture_states, restore_states, seeded


def draw():
    return (
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        torch.rand(3).tolist(),
        torch.randn(1).item(),
    )


def test_restored_states_repeat_every_draw():
    draw()  # leaves half a pair of normal numbers behind in random and numpy
    states = capture_states()
    expected = [draw() for _ in range(3)]
    restore_states(states)
    assert [draw() for _ in range(3)] == expected


def test_states_survive_a_checkpoint_under_safe_loading():
    draw()
    file = io.BytesIO()
    torch.save(capture_states(), file)
    expected = draw()
    file.seek(0)
    restore_states(torch.load(file, weights_only=True))
    assert draw() == expected


def test_seeded_depends_on_its_entropy_alone_and_disturbs_nothing():
    restore = capture_states()
    expected = draw()
    restore_states(restore)
    with seeded([1, 2, 3]):
        first = draw()
    assert draw() == expected
    with seeded([1, 2, 3]):
        assert draw() == first
    for other in ([1, 2, 4], [1, 2], [1, 2, 3, 0, 1], [2**40, 2, 3]):
        with seeded(other):
            assert draw()[0] != first[0]


def test_seeded_restores_after_an_error():
    states = capture_states()
    expected = draw()
    restore_states(states)
    with pytest.raises(KeyError), seeded([0]):
        draw()
        raise KeyError
    assert draw() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_gpu_states_are_restored():
    torch.rand(1, device='cuda')
    states = capture_states()
    expected = torch.rand(4, device='cuda').tolist()
    restore_states({key: value.cuda() if key == 'cuda' else value for key, value in states.items()})
    assert torch.rand(4, device='cuda').tolist() == expected
