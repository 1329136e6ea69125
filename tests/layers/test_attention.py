import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from slab_det.layers import (
    WindowLinearAttention,
    WindowSoftmaxAttention,
    simplified_linear_attention,
)
from slab_det.layers.attention import relative_position_index

B, H, W, HEADS, D = 2, 3, 5, 2, 4
N, C = H * W, HEADS * D


def inputs(dtype=torch.float64, batch=B, tokens=N, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v = (normal(batch, tokens, C) for _ in range(3))
    return q, k, v, normal(D, 1, 5, 5), normal(D)


def reference(q, k, v, height, width, weight, bias):
    """SLA with the N x N attention matrix, head by head, and the convolution tap by tap."""
    out = torch.zeros_like(v)
    for head in range(HEADS):
        part = slice(head * D, (head + 1) * D)
        similarity = q[..., part].relu() @ k[..., part].relu().transpose(1, 2)
        attended = similarity @ v[..., part] / (similarity.sum(-1, keepdim=True) + 1e-6)
        padded = F.pad(v[..., part].unflatten(1, (height, width)), (0, 0, 2, 2, 2, 2))
        convolved = (
            sum(
                padded[:, dy : dy + height, dx : dx + width] * weight[:, 0, dy, dx]
                for dy in range(5)
                for dx in range(5)
            )
            + bias
        )
        out[..., part] = attended + convolved.flatten(1, 2)
    return out


def test_sla_equals_the_quadratic_formula():
    q, k, v, weight, bias = inputs()
    out = simplified_linear_attention(q, k, v, H, W, HEADS, weight, bias)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, reference(q, k, v, H, W, weight, bias), rtol=1e-10, atol=1e-10)


def test_gradients_of_sla():
    tensors = [t.requires_grad_() for t in inputs(batch=1, tokens=6)]
    assert torch.autograd.gradcheck(
        lambda q, k, v, w, b: simplified_linear_attention(q, k, v, 2, 3, HEADS, w, b), tensors
    )


def test_zero_queries_are_finite():
    q, k, v, weight, bias = inputs()
    out = simplified_linear_attention(-q.abs(), k, v, H, W, HEADS, weight, bias)
    expected = reference(torch.zeros_like(q), k, v, H, W, weight, bias)
    assert out.isfinite().all()
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('autocast', [True, False])
@pytest.mark.parametrize('scale', [1, 1e4])
def test_half_precision_sums_in_float32(autocast, scale):
    q, k, v, weight, bias = (t.bfloat16() for t in inputs(tokens=64 * 64))
    q, k, v = q * scale, k * scale, v * scale
    expected = reference(*(t.double() for t in (q, k, v)), 64, 64, weight.double(), bias.double())
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        out = simplified_linear_attention(q, k, v, 64, 64, HEADS, weight, bias)
    assert out.dtype == torch.bfloat16
    # One rounding to bfloat16, which keeps 8 bits, and no more.
    assert ((out.double() - expected).abs() <= expected.abs() * 2**-8 + 1e-3 * expected.std()).all()


class LargestTensor(TorchDispatchMode):
    """Record the size of the largest tensor that any operator returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize('side', [16, 64])
def test_no_tensor_grows_with_the_square_of_the_tokens(side):
    q, k, v, weight, bias = inputs(torch.float32, batch=1, tokens=side * side)
    with LargestTensor() as largest, torch.no_grad():
        simplified_linear_attention(q, k, v, side, side, HEADS, weight, bias)
    assert largest.numel <= side * side * C


def test_wrong_height_and_width_are_refused():
    q, k, v, weight, bias = inputs()
    with pytest.raises(ValueError, match='v holds 15 tokens, but height x width is 4 x 4'):
        simplified_linear_attention(q, k, v, 4, 4, HEADS, weight, bias)


def test_relative_position_index_numbers_the_offsets():
    window = 3
    index = relative_position_index(window).view(9, 9)
    for a in range(9):
        for b in range(9):
            dy, dx = a // 3 - b // 3, a % 3 - b % 3
            assert index[a, b] == (dy + 2) * 5 + dx + 2


def test_softmax_attention_adds_bias_and_mask_to_the_logits():
    torch.manual_seed(0)
    attention = WindowSoftmaxAttention(C, 2, HEADS).double()
    attention.relative_position_bias_table.data.normal_()
    x = torch.randn(6, 4, C, dtype=torch.float64)  # two images of three windows
    mask = torch.where(torch.rand(3, 4, 4) < 0.4, -100.0, 0.0).double()
    q, k, v = attention.qkv(x).chunk(3, -1)
    bias = attention.position_bias()
    heads = []
    for head in range(HEADS):
        part = slice(head * D, (head + 1) * D)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / D**0.5 + bias[head]
        heads.append((logits + mask.repeat(2, 1, 1)).softmax(-1) @ v[..., part])
    expected = attention.proj(torch.cat(heads, -1))
    torch.testing.assert_close(attention(x, mask=mask), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('attention_type', [WindowLinearAttention, WindowSoftmaxAttention])
def test_heads_must_divide_the_channels(attention_type):
    with pytest.raises(ValueError, match='num_heads=3 does not divide dim=8'):
        attention_type(8, 7, 3)
