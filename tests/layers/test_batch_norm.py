"""Two processes on gloo must compute what one process computes on the joint batch."""
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from slab_det.layers import PRepBN, TokenBatchNorm

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


def worker(rank, port, ratio, results):
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
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
    torch.save(dict(out=out.detach(), x_grad=x.grad, gradients=gradients, state=norm.state_dict(),
                    valid=(valid_out.detach(), part.grad), valid_state=bn.state_dict()),
               f'{results}/{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize('ratio', [0.0, 0.5, 1.0])
def test_two_processes_equal_one_with_the_joint_batch(ratio, tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, (port, ratio, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]

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
