"""RepBN and PRepBN: BatchNorm for transformers that folds into linear layers at inference.

Source: Guo, Chen, Tang and Wang, "SLAB: Efficient Transformers with Simplified Linear
Attention and Progressive Re-parameterized BatchNorm", ICML 2024, section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slab_det.errors import InputError

from .autocast import autocast_device, without_autocast
from .batch_norm import TokenBatchNorm, is_distributed
from .norm_names import canonical_norm, entries_below, repbn_entries, replace_entries
from .padding import valid_rows

#: Devices where reading a tensor's value does not wait for other work.
_FREE_TO_READ = ('cpu',)


def _check_channels_last(norm: nn.Module, x: Tensor) -> None:
    if x.shape[-1] != norm.num_features:
        raise InputError(
            f'{type(norm).__name__}(num_features={norm.num_features}) takes tokens with the '
            f'channels last, (..., {norm.num_features}), but got {tuple(x.shape)}; '
            'a channels-first map must be permuted to (N, H, W, C) first.'
        )


def _without_autocast(x: Tensor) -> tuple[Tensor, torch.autocast]:
    """Return ``x`` in float32 where autocast is on, as it does for LayerNorm, and the context
    that keeps it so."""
    if torch.is_autocast_enabled(autocast_device(x)) and x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return x, without_autocast(x)


class ChannelAffine(nn.Module):
    """``y = weight * x + bias`` per channel of tokens ``(..., C)``.

    It stands for a norm whose statistics are settled and that has no linear layer to fold
    into.

    Args:
        num_features: number of channels C.
        eps: not used by an affine map; accepted because mmcv passes it to every norm.
    """

    _abbr_ = 'ln'

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        _check_channels_last(self, x)
        return torch.addcmul(self.bias, x, self.weight)

    def extra_repr(self) -> str:
        return str(self.num_features)


class RepBN(nn.Module):
    """Re-parameterized BatchNorm, ``RepBN(x) = BN(x) + eta * x``.

    ``eta`` is one learnable scalar, initially 1 (``alpha`` in the published code). Statistics
    are per channel over all tokens of the batch, of all processes where training is
    distributed; inside :func:`~slab_det.layers.valid_tokens` those of padding are left out. At
    inference the norm is one affine map per channel (Lemma 4.1 of the paper), see
    :meth:`affine`.

    Args:
        num_features: number of channels C.
        eps: added to the variance, as in BatchNorm.
        momentum: weight of a batch in the running statistics.

    Shapes:
        ``(..., C)`` to ``(..., C)``, any number of leading dimensions.

    Raises:
        InputError: the last dimension of the input is not ``num_features``.
    """

    _abbr_ = 'ln'

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features = num_features
        self.eta = nn.Parameter(torch.ones(1))
        self.bn = TokenBatchNorm(num_features, eps=eps, momentum=momentum)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Keep the BatchNorm where a converter (``convert_sync_batchnorm`` of torch and mmengine,
        ``sync_bn`` in a config) puts a SyncBatchNorm in its place: it is synchronised already,
        without a GPU too, and leaves padding out."""
        if type(module).__name__ != 'SyncBatchNorm':
            super().add_module(name, module)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return ``a, c`` with ``RepBN(x) = a * x + c`` under the running statistics.

        ``a = w / sqrt(v + eps) + eta`` and ``c = b - w * m / sqrt(v + eps)`` for the running
        mean ``m``, the running variance ``v`` and BatchNorm's affine ``w, b``; shapes ``(C,)``.
        """
        scale = self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)
        return scale + self.eta, self.bn.bias - scale * self.bn.running_mean

    def forward(self, x: Tensor) -> Tensor:
        _check_channels_last(self, x)
        x, context = _without_autocast(x)
        with context:
            if not self.bn.training:
                a, c = self.affine()
                return torch.addcmul(c, x, a)
            batch = self.bn(x.flatten(0, -2), rows=valid_rows(x)).view(x.shape)
            return torch.addcmul(batch, x, self.eta)

    def fuse(self) -> ChannelAffine:
        """Return the :class:`ChannelAffine` that this norm is at inference.

        ``timm.utils.reparameterize_model`` calls it on norms that no block has folded.
        """
        return channel_affine(*foldable_affine(self), dtype=self.eta.dtype)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        entries = entries_below(state_dict, prefix)
        if entries and not _is_native(entries, {'eta', 'bn.running_mean'}):
            canonical = canonical_norm(entries)
            if any(name.startswith('repbn.') for name in canonical):
                if float(canonical['ratio']) != 0:
                    error_msgs.append(
                        f'{prefix}ratio is {float(canonical["ratio"]):.4g}: RepBN has no LayerNorm '
                        'branch, so it takes a PRepBN checkpoint only at ratio 0; use PRepBN '
                        'to continue this one.'
                    )
                replace_entries(state_dict, prefix, repbn_entries(canonical))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        return str(self.num_features)


class PRepBN(nn.Module):
    """Progressive re-parameterized BatchNorm, ``g * LN(x) + (1 - g) * RepBN(x)``.

    The ratio ``g`` is the buffer ``ratio``: 1 is LayerNorm, 0 is RepBN alone. It is part of
    the state; a scheduler moves it, the forward pass never does. At ratio 0 the LayerNorm branch
    is not computed. At ratio 1 the output is LayerNorm's while training still feeds the
    BatchNorm statistics.

    Whatever writes the buffer is followed: :meth:`set_ratio`, ``load_state_dict``, a move to
    another device or type, ``deepcopy``, and any other write by the next ``train()``, ``eval()`` or
    forward pass on a CPU. On a GPU, where a look at the value waits for all work, a forward pass
    looks in evaluation mode, and only where the tensor is another one or torch has counted a write
    (writes through ``.data`` and collectives are not counted). A compiled or traced graph keeps the
    branch that it was made with until one of the others has looked.

    Args:
        num_features: number of channels C.
        eps: epsilon of the LayerNorm; BatchNorm keeps 1e-5 as published.
        momentum: weight of a batch in the running statistics.

    Shapes:
        ``(..., C)`` to ``(..., C)``, any number of leading dimensions.

    Raises:
        InputError: the last dimension of the input is not ``num_features``.

    The state dict of the published norm, of a RepBN and of a LayerNorm load as they are; what
    the source lacks keeps its value, and the ratio becomes the source's (1 for LayerNorm).
    """

    _abbr_ = 'ln'
    # For torch.jit.trace, which would take the tensor in it for a constant of the graph.
    __jit_ignored_attributes__ = ['_seen']
    #: The buffer that the branch was last derived from, and how often it had been written to.
    _seen: tuple[Tensor | None, int] = (None, 0)

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features = num_features
        self.ln = nn.LayerNorm(num_features, eps=eps)
        self.repbn = RepBN(num_features, momentum=momentum)
        self.register_buffer('ratio', torch.tensor(1.0))
        # What the forward pass branches on, derived from the buffer. Reading that there would stall
        # a GPU at every norm; a float here would recompile a compiled graph at every iteration.
        self._phase = 'layer_norm'

    def set_ratio(self, value: float) -> None:
        """Set the ratio ``g``.

        Raises:
            InputError: ``value`` is outside [0, 1] or not a number.
        """
        if not 0.0 <= value <= 1.0:
            raise InputError(f'ratio must lie in [0, 1], but got {value}.')
        self.ratio.fill_(value)
        # As the buffer's type rounds it.
        self._note(float(torch.tensor(value, dtype=self.ratio.dtype)))

    def sync_ratio(self) -> float:
        """Follow the buffer after something wrote to it; return the ratio."""
        value = float(self.ratio)
        self._note(value)
        return value

    def _note(self, value: float) -> None:
        self._phase = {0.0: 'repbn', 1.0: 'layer_norm'}.get(value, 'blend')
        if self.ratio.device.type not in _FREE_TO_READ:
            self._seen = self.ratio, _version(self.ratio)

    def _follow(self) -> None:
        if _is_readable(self.ratio):
            self.sync_ratio()

    def train(self, mode: bool = True) -> 'PRepBN':
        self._follow()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._follow()
        return self

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._follow()

    def _branch(self) -> str:
        """Return what the forward pass computes, having followed the buffer where that is cheap."""
        ratio = self.ratio
        if _is_readable(ratio) and (
            ratio.device.type in _FREE_TO_READ
            or not (self.training or (self._seen[0] is ratio and self._seen[1] == _version(ratio)))
        ):
            self.sync_ratio()
        return self._phase

    def forward(self, x: Tensor) -> Tensor:
        _check_channels_last(self, x)
        branch = self._branch()
        if branch == 'repbn':
            return _keep_in_graph(self.repbn(x), self.ln)
        if branch == 'layer_norm':
            if self.repbn.bn.training:
                self.repbn.bn.update_statistics(x.detach().flatten(0, -2), valid_rows(x))
            return _keep_in_graph(self.ln(x), self.repbn)
        x, context = _without_autocast(x)
        with context:
            # The ratio is multiplied into the affine parameters, so that the blend costs two
            # additions and no product over the tokens.
            g = self.ratio.to(x.dtype)
            out = F.layer_norm(
                x, self.ln.normalized_shape, g * self.ln.weight, g * self.ln.bias, self.ln.eps
            )
            if not self.repbn.bn.training:
                a, c = self.repbn.affine()
                return out.addcmul_(x, (1 - g) * a).add_((1 - g) * c)
            batch = self.repbn.bn(x.flatten(0, -2), 1 - g, valid_rows(x)).view(x.shape)
            return out.add_(batch).addcmul_(x, (1 - g) * self.repbn.eta)

    def fuse(self) -> ChannelAffine:
        """Return the :class:`ChannelAffine` that this norm is at inference.

        Raises:
            InputError: the ratio is not 0, so that there is no such map.
        """
        return channel_affine(*foldable_affine(self), dtype=self.repbn.eta.dtype)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        entries = entries_below(state_dict, prefix)
        if entries and not _is_native(entries, {'ratio'}):
            own = {name: value.detach() for name, value in self.state_dict().items()}
            replace_entries(state_dict, prefix, {**own, **canonical_norm(entries)})
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._follow()

    def extra_repr(self) -> str:
        return str(self.num_features)


def _is_readable(tensor: Tensor) -> bool:
    """Whether ``tensor`` has a value that may decide a branch: not in a graph that is being made,
    not on the meta device, and not a stand-in (fake, distributed, or transformed by ``vmap``)."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or type(tensor) is not Tensor
        or tensor.is_meta
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode do not count writes.
    return 0 if tensor.is_inference() else tensor._version


def _keep_in_graph(out: Tensor, idle: nn.Module) -> Tensor:
    """Give the parameters of the idle branch a zero gradient where gradients are synchronised:
    distributed training waits for the gradient of every parameter."""
    if not (torch.is_grad_enabled() and idle.training and is_distributed()):
        return out
    return out + sum(0 * p.sum() for p in idle.parameters() if p.requires_grad)


def _is_native(entries, required) -> bool:
    return required <= entries.keys()


def prepbn_modules(model: nn.Module) -> list[PRepBN]:
    """Return every :class:`PRepBN` of ``model``, in the order of ``model.modules()``."""
    return [module for module in model.modules() if isinstance(module, PRepBN)]


def set_ratio(model: nn.Module, value: float) -> int:
    """Set the ratio of every :class:`PRepBN` of ``model``; return how many there are."""
    modules = prepbn_modules(model)
    for module in modules:
        module.set_ratio(value)
    return len(modules)


def foldable_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return ``a, c`` in float64 with ``norm(x) = a * x + c`` at inference.

    Args:
        norm: a :class:`RepBN`, a :class:`PRepBN` at ratio 0 or a :class:`ChannelAffine`.

    Raises:
        InputError: the norm is none of these, or its ratio is not 0.
    """
    if isinstance(norm, PRepBN):
        ratio = float(norm.ratio)
        if ratio != 0:
            raise InputError(
                f'ratio is {ratio:.4g}: a PRepBN folds only at ratio 0; finish the schedule, or '
                'drop the LayerNorm branch knowingly with drop_layer_norm=True.'
            )
        norm = norm.repbn
    if isinstance(norm, RepBN):
        bn = norm.bn
        scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
        a = scale + norm.eta.double()
        return a.detach(), (bn.bias.double() - scale * bn.running_mean.double()).detach()
    if isinstance(norm, ChannelAffine):
        return norm.weight.detach().double(), norm.bias.detach().double()
    raise InputError(
        f'{type(norm).__name__} is not an affine map at inference; RepBN and PRepBN are.'
    )


def channel_affine(a: Tensor, c: Tensor, dtype: torch.dtype = torch.float32) -> ChannelAffine:
    """Return the :class:`ChannelAffine` ``a * x + c``."""
    module = ChannelAffine(a.numel()).to(device=a.device, dtype=dtype)
    with torch.no_grad():
        module.weight.copy_(a)
        module.bias.copy_(c)
    return module
