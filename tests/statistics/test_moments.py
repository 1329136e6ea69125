import numpy as np
import pytest
import torch

from slab_det.statistics.moments import Moments
from tests.processes import on_two_processes

C = 3


def tokens(count, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, C, generator=generator) + offset


def reference(batches):
    """Means and co-moments per channel of all tokens, in float64 by numpy."""
    x, y = np.concatenate([batch.double().numpy() for batch in batches], axis=1)
    pairs = [(x, x), (x, y), (y, y)]
    products = [((u - u.mean(0)) * (v - v.mean(0))).sum(0) for u, v in pairs]
    return len(x), np.stack([x.mean(0), y.mean(0)]), np.stack(products)


def assert_equal(moments, batches, rtol):
    count, means, products = reference(batches)
    assert float(moments.count) == count
    np.testing.assert_allclose(moments.means.numpy(), means, rtol=rtol)
    np.testing.assert_allclose(moments.products.numpy(), products, rtol=rtol, atol=count * rtol)


@pytest.mark.parametrize('offset', [0.0, 1e4])
def test_merged_batches_have_the_moments_of_all_tokens(offset):
    batches = [tokens(count, seed, offset) for seed, count in enumerate((7, 1, 30))]
    moments = Moments(torch.zeros(C), quantities=2)
    for batch in batches:
        moments.add(batch)
    # An offset of 1e4 takes 13 of float32's 24 bits from the deviations.
    assert_equal(moments, batches, rtol=1e-5 if offset == 0 else 1e-2)


def test_what_was_added_is_described():
    x = tokens(9, 0)
    means, products = Moments(torch.zeros(C), quantities=2).add(x)
    np.testing.assert_allclose(means.numpy(), x.mean(1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(products[0].numpy(), x[0].var(0, correction=0).numpy(), rtol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    x = tokens(4096, 0).to(dtype)
    moments = Moments(torch.zeros(C), quantities=2)
    moments.add(x)
    assert_equal(moments, [x.float()], rtol=1e-4)


def test_one_quantity_has_one_product():
    moments = Moments(torch.zeros(C))
    moments.add(tokens(5, 0)[:1])
    assert moments.means.shape == moments.products.shape == (1, C)


def _share(rank):
    moments = Moments(torch.zeros(C), quantities=2)
    if rank == 0:  # the other process has no token
        moments.add(tokens(5, 0))
        moments.add(tokens(4, 1))
    moments.reduce()
    return dict(count=moments.count, means=moments.means, products=moments.products)


def test_the_moments_of_all_processes():
    count, means, products = reference([tokens(5, 0), tokens(4, 1)])
    for found in on_two_processes(_share):
        assert float(found['count']) == count
        np.testing.assert_allclose(found['means'].numpy(), means, rtol=1e-5)
        np.testing.assert_allclose(found['products'].numpy(), products, rtol=1e-5, atol=1e-4)
