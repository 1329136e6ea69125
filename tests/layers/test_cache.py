import torch
from torch._subclasses import FakeTensorMode

from slab_det.layers import shift_mask, window_layout
from slab_det.layers.cache import size_cache

CPU = torch.device('cpu')


def test_what_is_kept_is_bounded_by_bytes_and_the_oldest_goes_first():
    calls = []

    @size_cache(max_bytes=1000)
    def numbers(size, device):
        calls.append(size)
        return [torch.zeros(size, device=device)], size

    for size in (100, 100, 120, 100, 110):  # 4 bytes each
        numbers(size, CPU)
    assert calls == [100, 120, 110]
    assert list(numbers.kept) == [(100, CPU), (110, CPU)]
    numbers(1000, CPU)  # larger than the bound: kept alone
    assert list(numbers.kept) == [(1000, CPU)]
    assert numbers(1000, CPU)[0][0] is numbers(1000, CPU)[0][0]


def test_masks_of_many_sizes_take_no_more_than_the_bound():
    for width in range(320, 340):
        shift_mask(200, width, 7, 3, CPU)
    kept = [value.nbytes for value, _ in shift_mask.kept.values()]
    assert 12 * 2**20 < sum(kept) <= 64 * 2**20


def test_shapes_without_data_are_not_kept():
    with FakeTensorMode():
        window_layout(3, 5, 9, 4, 2, CPU)
    assert type(window_layout(3, 5, 9, 4, 2, CPU).index) is torch.Tensor
