"""What all backbones share: outputs, output norms, freezing, pretrained weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slab_det.checkpoints import (
    LoadReport,
    convert_state_dict,
    select_weights,
    stored_grid_sizes,
)
from slab_det.deploy import place_twins, reparameterize
from slab_det.layers import TokenMap
from slab_det.mm.config_walk import is_pretrained
from slab_det.models import FeatureStages

from .sources import open_checkpoint


class SLABBackbone(BaseModule):
    """A transformer of :mod:`slab_det.models` as a detection backbone.

    The transformer is ``net``; what comes after the last output is removed from it. Output i
    passes through the norm ``norm{i}``.

    Args:
        net: the transformer.
        out_indices: stages whose maps are returned, in rising order.
        out_norm_cfg: norm of every output, a config that mmcv builds and that takes channels
            last; None returns the raw maps.
        frozen_stages: 0 freezes the patch embedding, k > 0 the first k stages and their output
            norms as well; -1 freezes nothing.
        norm_eval: keep the statistics of every BatchNorm as they are while training.
        with_cp: recompute the blocks' activations in the backward pass to save memory.
        deploy: build the re-parameterized network, whose norms are folded, with the twins of
            :mod:`slab_det.deploy.twins` in place.
        init_cfg: as mmengine takes it, a config or a list of them; ``dict(type='Pretrained',
            checkpoint=FILE, ...)``, by name or by class, calls :meth:`load_pretrained` with what
            follows the type.
    """

    def __init__(
        self,
        net: FeatureStages,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm_cfg: Mapping[str, Any] | None = dict(type='LN'),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        stages = len(net.layers)
        if (
            not out_indices
            or any(not 0 <= i < stages for i in out_indices)
            or list(out_indices) != sorted(set(out_indices))
        ):
            raise ValueError(
                f'out_indices must be rising numbers of stages, 0 to {stages - 1}, but '
                f'got {tuple(out_indices)}.'
            )
        if not -1 <= frozen_stages <= stages:
            raise ValueError(
                f'frozen_stages must lie between -1 and {stages}, the number of '
                f'stages, but got {frozen_stages}.'
            )
        self.out_indices = tuple(out_indices)
        self.out_channels = tuple(net.feature_info[i]['num_chs'] for i in out_indices)
        self.strides = tuple(net.feature_info[i]['reduction'] for i in out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        self.net = net
        net.prune_intermediate_layers(list(out_indices), prune_norm=True, prune_head=True)
        # mmdet's NumClassCheckHook compares this name with the data's classes wherever it meets it.
        del net.num_classes
        net.set_grad_checkpointing(with_cp)
        for i, channels in zip(self.out_indices, self.out_channels):
            norm = nn.Identity()
            if out_norm_cfg is not None:
                norm = build_norm_layer(dict(out_norm_cfg), channels)[1]
            self.add_module(f'norm{i}', norm)
        self.to_map = TokenMap()
        if deploy:
            place_twins(reparameterize(self, inplace=True, drop_layer_norm=True))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps ``(B, C_i, H_i, W_i)`` of the stages ``out_indices``."""
        outputs = self.net.forward_stages(x)
        return tuple(
            self.to_map(outputs[i][0], getattr(self, f'norm{i}'), *outputs[i][1:])
            for i in self.out_indices
        )

    def init_weights(self) -> None:
        """Initialize the weights as ``init_cfg`` says, from checkpoints last; without an
        ``init_cfg`` they stay as built."""
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        drawn = [cfg for cfg in cfgs if not is_pretrained(cfg)]
        if drawn or not cfgs:
            whole, self.init_cfg = self.init_cfg, drawn
            super().init_weights()
            self.init_cfg = whole
        for cfg in filter(is_pretrained, cfgs):
            self.load_pretrained(**{key: value for key, value in cfg.items() if key != 'type'})
        self._is_init = True

    def load_pretrained(
        self,
        checkpoint: str,
        prefix: str | None = None,
        resize_grids: bool = False,
        ema: bool | None = None,
        map_location: Any = 'cpu',
    ) -> LoadReport:
        """Load weights of any known origin, see :mod:`slab_det.checkpoints`.

        Args:
            checkpoint: see :func:`~slab_det.mm.backbones.sources.open_checkpoint`.
            prefix: take only the entries below it, for example ``'backbone.'``.
            resize_grids: allow positional grids to be resized to the model's.
            ema: which weights to take, see :func:`~slab_det.checkpoints.select_weights`.
            map_location: as mmengine's ``PretrainedInit`` has it; without effect, because files
                are read on the CPU and copied to where the parameters are.

        Raises:
            FileNotFoundError, CheckpointError: there is no such file, or it does not fit.
        """
        content = open_checkpoint(checkpoint)
        source, taken = select_weights(content, prefix, ema)
        state = self.state_dict()
        # Sources know nothing of the wrapper: its network is theirs, its output norms are norm{i}.
        names = {key.removeprefix('net.'): key for key in state}
        weights, report = convert_state_dict(
            source,
            {name: state[key] for name, key in names.items()},
            optional=tuple(f'norm{i}.' for i in self.out_indices),
            resize_grids=resize_grids,
            grid_sizes=self.net.grid_sizes(),
            source_grid_sizes=stored_grid_sizes(content),
        )
        self.load_state_dict({names[name]: value for name, value in weights.items()}, strict=False)
        report.taken = taken
        MMLogger.get_current_instance().info(
            f'Loaded {checkpoint} into {type(self).__name__}: {report.summary()}'
        )
        return report

    def no_weight_decay(self) -> set[str]:
        """Return the names of the transformer's parameters that take no weight decay besides norms
        and biases."""
        return {f'net.{name}' for name in self.net.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the transformer's ``group_matcher``, by which timm counts layers; with ``coarse``
        a stage is one layer."""
        return {
            group: [(_inside_net(pattern), number) for pattern, number in patterns]
            if isinstance(patterns, list)
            else _inside_net(patterns)
            for group, patterns in self.net.group_matcher(coarse).items()
        }

    def train(self, mode: bool = True) -> 'SLABBackbone':
        """Switch between training and evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        if mode:
            for module in self._frozen():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def _frozen(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [getattr(self, f'norm{i}') for i in self.out_indices if i < self.frozen_stages]
        return [self.net.patch_embed, *self.net.layers[: self.frozen_stages], *norms]

    def _freeze(self) -> None:
        for module in self._frozen():
            module.eval().requires_grad_(False)


def _inside_net(pattern: str) -> str:
    return rf'^net\.(?:{pattern.removeprefix("^")})'


def pick_arch(
    arch, archs: Mapping[str, Mapping[str, Any]], rename: Mapping[str, str]
) -> dict[str, Any]:
    """Return the constructor arguments of ``arch``.

    Args:
        arch: a name of ``archs``, or a dict of widths.
        archs: the published sizes.
        rename: names of the widths in mmdet's words -> in the transformer's.

    Raises:
        ValueError: the arch is not known, or the dict does not hold exactly these widths.
    """
    if isinstance(arch, str):
        if arch not in archs:
            raise ValueError(
                f'arch must be one of {", ".join(map(repr, archs))} or a dict of widths, '
                f'but got {arch!r}.'
            )
        return dict(archs[arch])
    if set(arch) != set(rename):
        raise ValueError(
            f'arch as a dict must hold {", ".join(map(repr, rename))}, but got '
            f'{", ".join(map(repr, arch))}.'
        )
    return {rename[name]: value for name, value in arch.items()}
