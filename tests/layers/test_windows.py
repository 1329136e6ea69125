import pytest
import torch

from slab_det.layers import (
    effective_shift,
    shift_mask,
    window_layout,
    window_merge,
    window_partition,
)

CPU = torch.device('cpu')
CASES = [
    (8, 12, 4, 0),
    (8, 12, 4, 2),
    (7, 10, 4, 2),
    (3, 9, 4, 2),
    (2, 3, 4, 0),
    (5, 5, 3, 1),
    (1, 1, 7, 0),
]


def cut_token_by_token(x, height, width, window, shift):
    """Place every token of every window by hand: window (i, j), token (a, b) shows the padded
    map at row (i * window + a + shift) modulo the padded height."""
    batch, _, channels = x.shape
    rows, cols = -(-height // window), -(-width // window)
    out = torch.zeros(batch, rows, cols, window, window, channels, dtype=x.dtype)
    for i in range(rows):
        for j in range(cols):
            for a in range(window):
                for b in range(window):
                    y = (i * window + a + shift) % (rows * window)
                    z = (j * window + b + shift) % (cols * window)
                    if y < height and z < width:
                        out[:, i, j, a, b] = x[:, y * width + z]
    return out.view(batch * rows * cols, window * window, channels)


@pytest.mark.parametrize('height, width, window, shift', CASES)
@pytest.mark.parametrize('batch', [1, 2])
def test_partition_places_every_token(batch, height, width, window, shift):
    x = torch.randn(batch, height * width, 3)
    layout = window_layout(batch, height, width, window, shift, CPU)
    windows = window_partition(x, layout)
    assert torch.equal(windows, cut_token_by_token(x, height, width, window, shift))
    assert torch.equal(window_merge(windows, layout, batch), x)


@pytest.mark.parametrize('height, width, window, shift', CASES)
def test_padded_rows_are_named(height, width, window, shift):
    layout = window_layout(2, height, width, window, shift, CPU)
    ones = cut_token_by_token(torch.ones(2, height * width, 1), height, width, window, shift)
    padded = (ones.flatten() == 0).nonzero().flatten()
    assert torch.equal(layout.padded.sort().values, padded)


@pytest.mark.parametrize('height, width, window, shift', CASES[:4])
def test_gradients_move_back_with_the_tokens(height, width, window, shift):
    layout = window_layout(2, height, width, window, shift, CPU)
    x = torch.randn(2, height * width, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: window_partition(t, layout), x)
    windows = window_partition(x, layout).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: window_merge(t, layout, 2), windows)


@pytest.mark.parametrize(
    'height, width, window, shift', [(8, 12, 4, 2), (7, 10, 4, 2), (3, 9, 4, 2), (5, 5, 3, 1)]
)
def test_mask_separates_what_only_the_roll_brought_together(height, width, window, shift):
    mask = shift_mask(height, width, window, shift, CPU)
    rows, cols = -(-height // window), -(-width // window)
    assert mask.shape == (rows * cols, window**2, window**2)
    for number in range(rows * cols):
        i, j = divmod(number, cols)
        for p in range(window**2):
            for q in range(window**2):
                # Two tokens belong together unless exactly one of them was rolled over an edge.
                wrapped = [
                    [
                        (base * window + offset + shift) >= size * window
                        for base, offset, size in ((i, t // window, rows), (j, t % window, cols))
                    ]
                    for t in (p, q)
                ]
                assert mask[number, p, q] == (0 if wrapped[0] == wrapped[1] else -100)


def test_shift_is_dropped_only_where_the_whole_map_fits_one_window():
    assert effective_shift(7, 7, 7, 3) == 0
    assert effective_shift(3, 5, 7, 3) == 0
    assert effective_shift(7, 8, 7, 3) == 3
    assert effective_shift(8, 3, 7, 3) == 3


def test_layouts_are_computed_once_per_size():
    assert window_layout(1, 9, 9, 4, 2, CPU) is window_layout(1, 9, 9, 4, 2, CPU)


def test_layouts_first_asked_for_in_inference_serve_training():
    with torch.inference_mode():
        layout = window_layout(1, 5, 11, 4, 1, CPU)
    x = torch.randn(1, 55, 2, requires_grad=True)
    window_partition(x, layout).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
