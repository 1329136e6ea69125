"""Two processes on gloo must compute what one process computes on the joint batch."""

import pytest
import torch
import torch.distributed as dist

from slab_det.layers import PRepBN, TokenBatchNorm
from tests.processes import on_two_processes

C = 5
SIZES = (3, 8)  # tokens per process differ: images of a batch may too
#: Rows that count, by process: all of one and some of the other; where a process has one or none it
#: takes part in the sums all the same.
VALID = [
    (None, torch.tensor([0, 2, 3, 7])),
    (torch.tensor([1]), torch.tensor([4, 6])),
    (torch.tensor([], dtype=torch.long), None),
    (torch.tensor([1]), torch.tensor([3])),
]
#: One token of both processes together, or none.
TOO_FEW = [
    (torch.tensor([2]), torch.tensor([], dtype=torch.long)),
    (torch.tensor([], dtype=torch.long),) * 2,
]


def joint_batch():
    return (
        torch.randn(sum(SIZES), C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * 3
        + 50
    )


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
        assert parameter.grad is not None, (
            f'{name} got no gradient: distributed training would hang'
        )
        dist.all_reduce(parameter.grad)
        gradients[name] = parameter.grad
    return dict(out=out.detach(), x_grad=x.grad, gradients=gradients, state=norm.state_dict())


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


def work_on_rows(rank):
    rows = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    results = []
    for valid in [*VALID, *TOO_FEW]:
        bn, x = TokenBatchNorm(C).double(), joint_batch()[rows].requires_grad_()
        bn.running_mean.fill_(40)
        out = bn(x, rows=valid[rank])
        loss_of(out, rows).backward()
        fed = TokenBatchNorm(C).double()
        fed.update_statistics(x, valid[rank])
        results.append(
            dict(out=out.detach(), x_grad=x.grad, state=bn.state_dict(), fed=fed.running_mean)
        )
    return results


@pytest.fixture(scope='module')
def on_rows():
    return on_two_processes(work_on_rows)


@pytest.mark.slow
@pytest.mark.parametrize('number', range(len(VALID)))
def test_two_processes_count_the_rows_of_both(on_rows, number):
    parts = [results[number] for results in on_rows]
    first, second = (
        torch.arange(size) if rows is None else rows for rows, size in zip(VALID[number], SIZES)
    )
    counted = torch.cat([first, SIZES[0] + second])
    x = joint_batch().requires_grad_()
    mean, var = x[counted].mean(0), x[counted].var(0, correction=0)
    out = (x - mean) / (var + 1e-5).sqrt()
    loss_of(out, slice(None)).backward()
    close = dict(rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.cat([part['out'] for part in parts]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([part['x_grad'] for part in parts]), x.grad, **close)
    for part in parts:
        torch.testing.assert_close(
            part['state']['running_mean'], 0.9 * 40 + 0.1 * mean.detach(), **close
        )
        torch.testing.assert_close(
            part['state']['running_var'], 0.9 + 0.1 * x.detach()[counted].var(0), **close
        )
        torch.testing.assert_close(part['fed'], 0.1 * mean.detach(), **close)


@pytest.mark.slow
@pytest.mark.parametrize('number', range(len(TOO_FEW)))
def test_a_single_token_of_two_processes_uses_the_running_statistics(on_rows, number):
    """As on one process: it has no variance, and NaN would stay in the statistics for ever."""
    parts = [results[len(VALID) + number] for results in on_rows]
    x = joint_batch().requires_grad_()
    out = (x - 40) / (1 + 1e-5) ** 0.5
    loss_of(out, slice(None)).backward()
    torch.testing.assert_close(torch.cat([part['out'] for part in parts]), out.detach())
    torch.testing.assert_close(torch.cat([part['x_grad'] for part in parts]), x.grad)
    for part in parts:
        assert torch.equal(
            part['state']['running_mean'], torch.full((C,), 40.0, dtype=torch.float64)
        )
        assert torch.equal(part['state']['running_var'], torch.ones(C, dtype=torch.float64))
        assert not part['fed'].any()


def test_cumulative_average_with_momentum_none():
    bn = TokenBatchNorm(C, momentum=None)
    batches = [torch.randn(6, C, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    for batch in batches:
        bn.update_statistics(batch)
    torch.testing.assert_close(bn.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(bn.running_var, torch.stack([b.var(0) for b in batches]).mean(0))
