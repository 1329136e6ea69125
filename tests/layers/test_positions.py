import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slab_det.layers.positions import GridCache, resize_grid, square_grid


def test_resize_to_the_same_size_is_the_identity_bit_for_bit():
    grid = torch.randn(1, 6 * 5, 4)
    assert resize_grid(grid, (6, 5), (6, 5)) is grid


@pytest.mark.parametrize('mode', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('size', [(3, 9), (13, 6), (1, 1)])
def test_resize_is_torch_interpolation_of_the_map(mode, size):
    grid = torch.randn(1, 6 * 5, 4)
    image = grid[0].T.reshape(1, 4, 6, 5)
    expected = F.interpolate(image, size=size, mode=mode, align_corners=False)
    resized = resize_grid(grid, (6, 5), size, mode)
    torch.testing.assert_close(resized[0].T.reshape(1, 4, *size), expected)


def test_resize_keeps_a_linear_ramp_in_the_interior():
    ramp = torch.arange(4.0)[:, None].expand(4, 3).reshape(1, 12, 1)
    resized = resize_grid(ramp, (4, 3), (8, 3)).view(8, 3)
    # Centre of row i of 8 lies at (i + 0.5) / 2 - 0.5 of the rows of 4.
    expected = (torch.arange(8.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(resized[1:-1], expected[1:-1, None].expand(6, 3))


def test_resize_is_differentiable():
    grid = torch.randn(1, 12, 2, requires_grad=True)
    resize_grid(grid, (4, 3), (2, 6)).sum().backward()
    assert grid.grad.abs().sum() > 0


def test_resize_refuses_a_size_that_is_not_the_grids():
    with pytest.raises(ValueError, match=r'from_size=\(4, 4\).*12 tokens'):
        resize_grid(torch.zeros(1, 12, 2), (4, 4), (8, 8))


def test_square_grid():
    assert square_grid(196) == (14, 14)
    with pytest.raises(ValueError, match='197 tokens'):
        square_grid(197)


class Positions(GridCache):
    def __init__(self):
        super().__init__()
        self.grid = nn.Parameter(torch.randn(1, 12, 2))

    def forward(self, size):
        return self.resized(self.grid, (3, 4), size)


def test_a_resized_grid_is_kept_for_one_size_and_follows_its_parameter():
    module = Positions().eval()
    with torch.no_grad():
        first = module((6, 8))
        assert module((6, 8)) is first
        assert module((5, 7)).shape == (1, 35, 2)
        assert len(module._cache) == 1
        module.grid.mul_(2)
        torch.testing.assert_close(module((6, 8)), 2 * first)
    assert module((6, 8)).requires_grad  # training computes it anew
