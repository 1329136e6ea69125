"""What all transformers of this package share: stages, feature extraction, the head."""

from collections.abc import Sequence

import torch
from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class FeatureStages(nn.Module):
    """A transformer in stages, with timm's conventions.

    A subclass has ``patch_embed``, ``layers`` (the stages), ``norm`` (the closing norm), ``head``
    (timm's classifier head) and ``feature_info``. Patch embedding and stages return tokens
    ``(B, H * W, C)``, H and W.
    """

    #: Ends of names of parameters that take no weight decay besides norms and biases.
    no_decay: tuple[str, ...] = ('positional_encoding',)

    def forward_stages(self, x: Tensor, last: int | None = None) -> list[tuple[Tensor, int, int]]:
        """Return ``(tokens, H, W)`` of every stage up to number ``last``, tokens ``(B, H * W, C)``."""
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
        """Return height and width of the positional grids that need not be square, by name."""
        return {}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay besides norms and biases."""
        return {name for name, _ in self.named_parameters() if name.endswith(self.no_decay)}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass to save memory."""
        for stage in self.layers:
            stage.grad_checkpointing = enable


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
