"""BatchNorm over tokens, with statistics that agree on all processes."""

import warnings

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_f
import torch.nn.functional as F
from torch import Tensor, nn


def in_backward() -> bool:
    """Whether this code runs inside a backward pass, that is, as the second forward pass of an
    activation checkpoint. Running statistics must not move then."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_of_processes(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all processes, ``x`` itself if there is one; differentiable."""
    return dist_f.all_reduce(x) if is_distributed() else x


def joint_mean(total: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the tokens of all processes, and their number.

    Args:
        total: the sum over the tokens of this process, of any shape.
        count: their number.
    """
    number = torch.as_tensor(count, dtype=total.dtype, device=total.device)
    joint = sum_of_processes(torch.cat([total.flatten(), number.view(1)]))
    count = joint[-1].detach()
    return joint[:-1].view_as(total) / count.clamp(min=1), count


class TokenBatchNorm(nn.BatchNorm1d):
    """BatchNorm of tokens ``(M, C)``: ``w * (x - mean) / sqrt(var + eps) + b``.

    Tokens as rows give the statistics of ``(N, C, L)`` without two transpositions. In training
    under a process group of several processes, mean and variance are those of the joint batch;
    the reduction is differentiable, on gloo and on nccl, unlike torch's SyncBatchNorm, which
    needs a GPU.

    One token per channel has no variance: it is normalised by the running statistics, which
    stay as they are, and a warning says so once.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Normalise ``x: (M, C)``.

        Args:
            x: the tokens.
            scale: a factor of the whole output.
            rows: numbers of the tokens that training statistics count; None counts all. The
                others are normalised by the same statistics.
        """
        weight = self.weight if scale is None else self.weight * scale
        bias = self.bias if scale is None else self.bias * scale
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, weight, bias, False, 0.0, self.eps
            )
        counted = x.shape[0] if rows is None else rows.numel()
        if is_distributed() or (rows is not None and counted > 1):
            mean, var, count = self._moments(x, rows)
            self._update(mean.detach(), var.detach(), count)
            inverse = weight * torch.rsqrt(var + self.eps)
            shift = bias - mean * inverse
            return torch.addcmul(shift.to(x.dtype), x, inverse.to(x.dtype))
        if counted > 1:
            momentum = self._next_momentum()
            stats = self.running_mean, self.running_var
            if momentum is None:
                # Copies, not None: torch checks that both passes of a checkpoint save alike.
                stats = tuple(stat.clone() for stat in stats)
            return F.batch_norm(x, *stats, weight, bias, True, momentum or 0.0, self.eps)
        self._warn_single_token()
        return F.batch_norm(
            x, self.running_mean, self.running_var, weight, bias, False, 0.0, self.eps
        )

    @torch.no_grad()
    def update_statistics(self, x: Tensor, rows: Tensor | None = None) -> None:
        """Feed the running statistics with ``x: (M, C)``, or its ``rows``, without computing an
        output."""
        if is_distributed() or (x.shape[0] if rows is None else rows.numel()) > 1:
            self._update(*self._moments(x, rows))
        else:
            self._warn_single_token()

    def _moments(self, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, int | Tensor]:
        """Return mean and biased variance over the tokens ``rows`` of all processes, and their
        number."""
        x = x if rows is None else x.index_select(0, rows)
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if not is_distributed():
            var, mean = torch.var_mean(x, 0, correction=0)
            return mean, var, x.shape[0]
        # Two reductions: squares of raw values would cancel where the mean is large.
        mean, count = joint_mean(x.sum(0), x.shape[0])
        var = sum_of_processes((x - mean).square().sum(0)) / count.clamp(min=1)
        # Fewer than two tokens have no variance: take the running statistics, as if they were those
        # of endless tokens. All without asking the device for the number.
        few = count < 2
        mean = torch.where(few, self.running_mean.to(mean.dtype), mean)
        var = torch.where(few, self.running_var.to(var.dtype), var)
        return mean, var, torch.where(few, torch.inf, count)

    def _next_momentum(self) -> float | None:
        """Count the batch and return its weight; None while a checkpoint runs again."""
        if in_backward():
            return None
        self.num_batches_tracked.add_(1)
        if self.momentum is None:
            return 1.0 / float(self.num_batches_tracked)
        return self.momentum

    def _update(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        momentum = self._next_momentum()
        if momentum is not None:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            unbiased = var.to(self.running_var.dtype) * (1 + 1 / (count - 1))
            self.running_var.lerp_(unbiased, momentum)

    def _warn_single_token(self) -> None:
        if not getattr(self, '_warned', False):
            self._warned = True
            warnings.warn(
                'BatchNorm over a single token has no variance: the running statistics were '
                'used instead. Train with a batch of at least 2 images or with larger images.',
                stacklevel=2,
            )
