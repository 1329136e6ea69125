"""The layout computed in a graph against the one computed in Python."""

import pytest
import torch

from slab_det.layers import effective_shift, shift_mask, window_layout
from slab_det.layers.traced import (
    traced_layout,
    traced_mask,
    traced_merge,
    traced_padding,
    traced_partition,
)

CPU = torch.device('cpu')
# Height, width, window, shift: whole windows, odd sizes, one window, smaller than a window, one side
# within a window.
CASES = [
    (6, 8, 2, 1),
    (7, 9, 4, 2),
    (5, 5, 5, 2),
    (3, 2, 7, 3),
    (3, 20, 7, 3),
    (20, 6, 7, 3),
    (11, 13, 4, 0),
    (1, 1, 3, 1),
    (8, 4, 4, 2),
]


@pytest.mark.parametrize('height, width, window, shift', CASES)
def test_tokens_move_as_in_the_cached_layout(height, width, window, shift):
    expected = window_layout(
        1, height, width, window, effective_shift(height, width, window, shift), CPU
    )
    layout = traced_layout(height, width, window, shift)
    assert torch.equal(layout.index, expected.index)
    padded = torch.tensor([], dtype=torch.long) if expected.padded is None else expected.padded
    assert torch.equal((~layout.inside).nonzero().flatten(), padded)
    assert torch.equal(layout.inverse, expected.inverse)


@pytest.mark.parametrize('height, width, window, shift', [case for case in CASES if case[3]])
def test_mask_is_that_of_shifted_windows_and_zero_where_nothing_is_shifted(
    height, width, window, shift
):
    mask = traced_mask(traced_layout(height, width, window, shift), torch.zeros(1))
    if effective_shift(height, width, window, shift):
        assert torch.equal(mask, shift_mask(height, width, window, shift, CPU))
    else:
        assert mask.shape == (1, window**2, window**2) and not mask.any()


def test_partition_fills_padding_with_its_own_row_and_merge_undoes_it():
    tokens, padding = torch.randn(2, 3 * 5, 4), torch.randn(4)
    layout = traced_layout(3, 5, 4, 2)
    rows = traced_padding(traced_partition(tokens, layout, 4), padding, layout, 2)
    assert rows.shape == (2 * 2 * 16, 4)
    assert (rows == padding).all(-1).sum() == 2 * (2 * 16 - 3 * 5)
    assert torch.equal(traced_merge(rows.view(-1, 16, 4), layout, 2), tokens)


def test_a_traced_layout_serves_sizes_it_was_not_traced_with():
    def indices(image):
        layout = traced_layout(image.shape[0], image.shape[1], 4, 2)
        return layout.index, layout.inside, layout.inverse, layout.region

    traced = torch.jit.trace(indices, torch.zeros(9, 6))
    for height, width, *_ in CASES:
        for found, expected in zip(
            traced(torch.zeros(height, width)), indices(torch.zeros(height, width))
        ):
            assert torch.equal(found, expected)
