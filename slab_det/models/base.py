"""What all transformers of this package share: stages, feature extraction, head, entry points."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead, trunc_normal_
from timm.models import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

#: Names of parameters that lie on a grid of positions, the attribute ``grid`` of their module.
POSITIONS = ('positional_encoding', 'absolute_pos_embed', 'pos_embed')


class FeatureStages(nn.Module):
    """A transformer in stages, with timm's conventions.

    A subclass has ``patch_embed``, ``layers`` (the stages), ``norm`` (the closing norm), ``head``
    (timm's classifier head) and ``feature_info``. Patch embedding and stages return tokens
    ``(B, H * W, C)``, H and W.
    """

    #: Ends of names of parameters that take no weight decay besides norms and biases.
    no_decay: tuple[str, ...] = ('positional_encoding',)

    def add_head(
        self,
        dims: Sequence[int],
        stride: int,
        norm: nn.Module,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
    ) -> None:
        """Add the closing norm, the classifier and the description of the stages.

        Args:
            dims: channels per stage.
            stride: pixels between the tokens of the first stage; every stage doubles them.
            norm: the closing norm.
            num_classes, global_pool, drop_rate: of timm's classifier head.
        """
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            dict(num_chs=dim, reduction=stride * 2**i, module=f'layers.{i}')
            for i, dim in enumerate(dims)
        ]
        self.norm = norm
        self.head = ClassifierHead(
            dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt='NHWC'
        )

    def forward_stages(self, x: Tensor, last: int | None = None) -> list[tuple[Tensor, int, int]]:
        """Return ``(tokens, H, W)`` of every stage up to number ``last``; tokens are ``(B, H * W,
        C)``."""
        x, height, width = self.patch_embed(x)
        outputs = []
        for stage in self.layers if last is None else self.layers[: last + 1]:
            x, height, width = stage(x, height, width)
            outputs.append((x, height, width))
        return outputs

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed map of the last stage, ``(B, H, W, C)``."""
        x, height, width = self.forward_stages(x)[-1]
        return self.norm(x).unflatten(1, (height, width))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the map ``(B, H, W, C)`` and classify it, ``(B, num_classes)``."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images ``(B, in_chans, h, w)``, ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of chosen stages, as timm's models do.

        Args:
            x: images ``(B, in_chans, h, w)``.
            indices: the last n stages, these stages, or all.
            norm: apply the closing norm to the last stage's map.
            stop_early: compute no stage behind the last one wanted.
            output_fmt: 'NCHW' or 'NHWC'.
            intermediates_only: return the list alone, without the final features.
        """
        take, last = feature_take_indices(len(self.layers), indices)
        early = stop_early or intermediates_only
        outputs = self.forward_stages(x, last if early else None)
        maps = []
        for i in take:
            tokens, height, width = outputs[i]
            if norm and i == len(self.layers) - 1:
                tokens = self.norm(tokens)
            maps.append(as_map(tokens, height, width, output_fmt))
        if intermediates_only:
            return maps
        tokens, height, width = outputs[-1]
        if len(outputs) == len(self.layers):
            tokens = self.norm(tokens)
        return tokens.unflatten(1, (height, width)), maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the stages ``indices`` do not need; return their positive numbers."""
        take, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, '')
        return take

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifying layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifying layer; 0 classes remove it."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def grid_sizes(self) -> dict[str, tuple[int, int]]:
        """Return height and width of the positional grids, by name."""
        return {
            f'{prefix}.{name}'.lstrip('.'): module.grid
            for prefix, module in self.named_modules()
            if hasattr(module, 'grid')
            for name, _ in module.named_parameters(recurse=False)
            if name in POSITIONS
        }

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay besides norms and biases."""
        return {name for name, _ in self.named_parameters() if name.endswith(self.no_decay)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group parameters by depth, for layer-wise learning rates."""
        blocks = [
            (r'^layers\.(\d+)\.(?:downsample|absolute_pos_embed)', (0,)),
            (r'^layers\.(\d+)\.blocks\.(\d+)', None),
            (r'^(?:layers\.(\d+)\.)?norm', (99999,)),
        ]
        return dict(stem=r'^patch_embed', blocks=r'^layers\.(\d+)' if coarse else blocks)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass to save memory."""
        for stage in self.layers:
            stage.grad_checkpointing = enable


class Stage(nn.Module):
    """A change of the map, where there is one, and a row of blocks.

    Args:
        downsample: makes this stage's tokens ``(B, H * W, C)``, H and W of those of the stage
            before; None leaves them as they are.
        blocks: map tokens, height and width to tokens of the same shape.
    """

    def __init__(self, downsample: nn.Module | None, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        """Map ``(B, height * width, C)`` to this stage's tokens; return them, H and W."""
        if self.downsample is not None:
            x, height, width = self.downsample(x, height, width)
        for block in self.blocks:
            x = run_block(block, x, height, width, self.grad_checkpointing)
        return x, height, width


def run_block(block: nn.Module, x: Tensor, height: int, width: int, checkpointing: bool) -> Tensor:
    """Return ``block(x, height, width)``; with ``checkpointing`` its activations are not kept for
    the backward pass but computed again there."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x, height, width, use_reentrant=False)
    return block(x, height, width)


def as_map(tokens: Tensor, height: int, width: int, output_fmt: str = 'NCHW') -> Tensor:
    """Return ``tokens: (B, height * width, C)`` as a map in the layout 'NCHW' or 'NHWC'."""
    if output_fmt not in ('NCHW', 'NHWC'):
        raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', but got {output_fmt!r}.")
    tokens = tokens.unflatten(1, (height, width))
    return tokens.permute(0, 3, 1, 2).contiguous() if output_fmt == 'NCHW' else tokens


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer as vision transformers do; for ``nn.Module.apply``."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_attn_types(attn_types: str, stages: int) -> None:
    """Raise ValueError unless ``attn_types`` holds an 'L' or 'S' per stage."""
    if len(attn_types) != stages or set(attn_types) - set('LS'):
        raise ValueError(
            f"attn_types must hold one letter per stage, 'L' (linear) or 'S' (softmax), {stages} "
            f'in all, but got {attn_types!r}.'
        )


def check_lengths(stages: int, **per_stage: Sequence[Any]) -> None:
    """Raise ValueError unless every argument holds one entry per stage."""
    for name, values in per_stage.items():
        if len(values) != stages:
            raise ValueError(
                f'{name} must hold one entry per stage, {stages} in all, but got {tuple(values)}.'
            )


def pretrained_cfg(**kwargs: Any) -> dict[str, Any]:
    """Return timm's description of pretrained weights; ``kwargs`` change it."""
    return {
        **dict(
            url='',
            num_classes=1000,
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            crop_pct=0.9,
            interpolation='bicubic',
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            first_conv='patch_embed.proj',
            classifier='head.fc',
            license='apache-2.0',
        ),
        **kwargs,
    }


def create_model(
    kind: type[FeatureStages],
    variant: str,
    pretrained: bool,
    kwargs: Mapping[str, Any],
    **published: Any,
) -> FeatureStages:
    """Build the model of a timm entry point.

    Args:
        kind: class of the model.
        variant: name of the entry point.
        pretrained: load the weights of its ``pretrained_cfg``.
        kwargs: what the user gives; it comes before
        **published: the arguments of the published model.
    """
    # Imported here, since conversion reads the published sizes from the models.
    from slab_det.checkpoints import checkpoint_filter_fn

    kwargs = {**published, **kwargs}
    # The blocks of a plain transformer have one scale: the last one's features are taken.
    indices = tuple(range(len(kwargs['depths']))) if 'depths' in kwargs else 1
    return build_model_with_cfg(
        kind,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=indices, feature_cls='getter'),
        **kwargs,
    )
