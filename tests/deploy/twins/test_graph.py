"""The layout that is part of a graph against the one of the plain blocks."""

import pytest
import torch

from slab_det.deploy.twins.graph import fill_padding, graph_grid
from slab_det.layers import effective_shift, shift_mask, window_layout
from slab_det.layers.windows import region_mask

CPU = torch.device('cpu')
# Height, width, window, shift: whole windows, odd sizes, one window, smaller than a window, one
# side within a window.
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
    layout = graph_grid(height, width, window, shift)
    assert torch.equal(layout.index, expected.index)
    assert torch.equal((~layout.inside).nonzero().flatten(), expected.padded.sort().values)
    assert torch.equal(layout.inverse, expected.inverse)


@pytest.mark.parametrize('height, width, window, shift', [case for case in CASES if case[3]])
def test_mask_is_that_of_shifted_windows_and_zero_where_nothing_is_shifted(
    height, width, window, shift
):
    mask = region_mask(graph_grid(height, width, window, shift).region)
    if effective_shift(height, width, window, shift):
        assert torch.equal(mask, shift_mask(height, width, window, shift, CPU))
    else:
        assert mask.shape == (1, window**2, window**2) and not mask.any()


def test_partition_fills_padding_with_its_own_row_and_merge_undoes_it():
    tokens, padding = torch.randn(2, 3 * 5, 4), torch.randn(4)
    layout = graph_grid(3, 5, 4, 2)
    rows = tokens.index_select(1, layout.index).reshape(-1, 4)
    rows = fill_padding(rows, padding, layout, 2)
    assert rows.shape == (2 * 2 * 16, 4)
    assert (rows == padding).all(-1).sum() == 2 * (2 * 16 - 3 * 5)
    assert torch.equal(rows.view(2, -1, 4).index_select(1, layout.inverse), tokens)


def test_a_traced_layout_serves_sizes_it_was_not_traced_with():
    def indices(image):
        layout = graph_grid(image.shape[0], image.shape[1], 4, 2)
        return layout.index, layout.inside, layout.inverse, layout.region

    traced = torch.jit.trace(indices, torch.zeros(9, 6))
    for height, width, *_ in CASES:
        for found, expected in zip(
            traced(torch.zeros(height, width)), indices(torch.zeros(height, width))
        ):
            assert torch.equal(found, expected)
