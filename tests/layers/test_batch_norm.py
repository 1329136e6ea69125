"""Two processes on gloo must compute what one process computes on the joint batch."""
import pytest
import torch
import torch.distributed as dist

from slab_det.layers import PRepBN, TokenBatchNorm
from tests.processes import on_two_processes

C = 5
SIZES = (3, 8)  # tokens per process differ: images of a batch may too
VALID = (None, torch.tensor([0, 2, 3, 7]))  # all tokens of the first process, some of the second


def joint_batch():
    return torch.randn(sum(SIZES), C, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 50


def build(ratio):
    norm = PRepBN(C).double()
    norm.set_ratio(ratio)
    return norm


def loss_of(out, rows):
    weight = torch.linspace(-1, 2, sum(SIZES) * C, dtype=torch.float64).view(-1, C)
    return (out * weight[rows]).square().sum()


def work(rank, ratio):
    rows = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    norm = build(ratio)
    x = joint_batch()[rows].requires_grad_()
    out = norm(x)
    loss_of(out, rows).backward()
    gradients = {}
    for name, parameter in norm.named_parameters():
        assert parameter.grad is not None, f'{name} got no gradient: distributed training would hang'
        dist.all_reduce(parameter.grad)
        gradients[name] = parameter.grad
    bn, part = TokenBatchNorm(C).double(), x.detach().requires_grad_()
    valid_out = bn(part, rows=VALID[rank])
    loss_of(valid_out, rows).backward()
    return dict(out=out.detach(), x_grad=x.grad, gradients=gradients, state=norm.state_dict(),
                valid=(valid_out.detach(), part.grad), valid_state=bn.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize('ratio', [0.0, 0.5, 1.0])
def test_two_processes_equal_one_with_the_joint_batch(ratio):
    parts = on_two_processes(work, ratio)

    norm = build(ratio)
    x = joint_batch().requires_grad_()
    out = norm(x)
    loss_of(out, slice(None)).backward()

    close = dict(rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.cat([part['out'] for part in parts]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([part['x_grad'] for part in parts]), x.grad, **close)
    for part in parts:
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(part['state'][name], value, **close)
        for name, parameter in norm.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(part['gradients'][name], expected, **close)

    bn, x = TokenBatchNorm(C).double(), x.detach().requires_grad_()
    out = bn(x, rows=torch.cat([torch.arange(SIZES[0]), SIZES[0] + VALID[1]]))
    loss_of(out, slice(None)).backward()
    for i, expected in enumerate((out.detach(), x.grad)):
        torch.testing.assert_close(torch.cat([part['valid'][i] for part in parts]), expected, **close)
    for part in parts:
        for name, value in bn.state_dict().items():
            torch.testing.assert_close(part['valid_state'][name], value, **close)


def test_cumulative_average_with_momentum_none():
    bn = TokenBatchNorm(C, momentum=None)
    batches = [torch.randn(6, C, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    for batch in batches:
        bn.update_statistics(batch)
    torch.testing.assert_close(bn.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(bn.running_var, torch.stack([b.var(0) for b in batches]).mean(0))
