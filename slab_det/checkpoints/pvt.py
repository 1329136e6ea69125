"""Names of PVT checkpoints: ours, the published and official ones, timm's and mmdet's."""

import re
from typing import Any

import torch
from torch import Tensor

from .family import Family, Weights, count_children, norm_type, numbered, renamed

_FIRST_QUERY = (
    'layers.0.blocks.0.attn.q.weight',
    'block1.0.attn.q.weight',
    'stages.0.blocks.0.attn.q.weight',
    'layers.0.1.0.attn.attn.in_proj_weight',
    'layers.0.1.1.attn.attn.in_proj_weight',
)


#: timm's names; ours stay as they are.
_TIMM = ((r'stages\.', 'layers.'), (r'head\.(weight|bias)$', r'head.fc.\1'))
#: Published and official names: stages count from 1 and have no common prefix.
_PUBLISHED = (
    (r'patch_embed1\.', 'patch_embed.'),
    (r'patch_embed(\d+)\.', numbered('layers.{}.downsample.')),
    (r'pos_embed(\d+)$', numbered('layers.{}.absolute_pos_embed')),
    (r'block(\d+)\.', numbered('layers.{}.blocks.')),
    (r'norm(\d+)\.', numbered('layers.{}.norm.')),
    *_TIMM,
)


def is_pyramid(state_dict: Weights) -> bool:
    """Whether ``state_dict`` is of a PVT or a PVTv2 in any known naming."""
    return any(key in state_dict for key in _FIRST_QUERY)


def has_conv_mlp(state_dict: Weights) -> bool:
    """Whether the feed-forward part convolves, which only PVTv2 does."""
    return any('.mlp.dwconv.' in key or '.ffn.layers.4.' in key for key in state_dict)


def translate(state_dict: Weights) -> dict[str, dict[str, Tensor]]:
    """Return what the entries of a PVT or PVTv2 become in our naming."""
    if any('.attn.attn.' in key for key in state_dict):
        offset = int('layers.0.1.0.pos_embed' in state_dict)
        fc2 = 4 if has_conv_mlp(state_dict) else 3
        return {key: _mmdet_entries(key, value, offset, fc2) for key, value in state_dict.items()}
    token = 'cls_token' in state_dict
    published = any(key.startswith('block1.') for key in state_dict)
    entries = {}
    for key, value in state_dict.items():
        name = renamed(key, _PUBLISHED if published else _TIMM).replace(
            '.dwconv.dwconv.', '.dwconv.'
        )
        if name.endswith('.absolute_pos_embed') and token:
            value = _without_class_token(value)
        entries[key] = {} if published and key == 'cls_token' else {name: value}
    return entries


def _without_class_token(positions: Tensor) -> Tensor:
    """Drop the class token's position, with which the official last stage begins."""
    tokens = positions.shape[1]
    whole, rest = (round(n**0.5) ** 2 == n for n in (tokens, tokens - 1))
    return positions[:, 1:] if rest and not whole else positions


def _mmdet_entries(key: str, value: Tensor, offset: int, fc2: int) -> dict[str, Tensor]:
    """mmdet lists in stage i ``layers.i`` the patch embedding, position and blocks, and norm, has
    query, key and value in one projection and 1x1 convolutions for linear layers."""
    match = re.match(r'layers\.(\d+)\.(\d+)\.(.*)', key)
    if not match:
        return {key: value}
    stage, part, rest = int(match.group(1)), match.group(2), match.group(3)
    if part == '0':
        rest = rest.replace('projection.', 'proj.')
        return {(f'layers.{stage}.downsample.{rest}' if stage else f'patch_embed.{rest}'): value}
    if part == '2':
        return {f'layers.{stage}.norm.{rest}': value}
    if rest == '0.pos_embed':
        return {f'layers.{stage}.absolute_pos_embed': value}
    number, _, rest = rest.partition('.')
    block = f'layers.{stage}.blocks.{int(number) - offset}.'
    match = re.fullmatch(r'attn\.attn\.in_proj_(weight|bias)', rest)
    if match:
        q, kv = value.split([len(value) // 3, len(value) // 3 * 2])
        return {f'{block}attn.q.{match.group(1)}': q, f'{block}attn.kv.{match.group(1)}': kv}
    rest = rest.replace('attn.attn.out_proj.', 'attn.proj.')
    for layer, name in (('0', 'fc1'), ('1', 'dwconv'), (str(fc2), 'fc2')):
        rest = re.sub(rf'^ffn\.layers\.{layer}\.', f'mlp.{name}.', rest)
    if re.fullmatch(r'mlp\.fc\d\.weight', rest):
        value = value.flatten(1)
    return {block + rest: value}


def arguments(state_dict: Weights) -> dict[str, Any]:
    """Return the constructor arguments behind a PVT or PVTv2 in our naming."""
    stages = range(count_children(state_dict, 'layers.'))
    attn = [f'layers.{i}.blocks.0.attn.' for i in stages]
    kinds = ['L' if f'{a}positional_encoding' in state_dict else 'S' for a in attn]
    dims = [state_dict[f'{a}q.weight'].shape[0] for a in attn]
    ratios = [
        state_dict[f'{a}sr.weight'].shape[-1] if f'{a}sr.weight' in state_dict else 1 for a in attn
    ]
    # Softmax attention does not show its heads in shapes; published heads are as wide as the
    # first stage.
    heads = [
        dim // (state_dict[f'{a}dwc.weight'].shape[0] if kind == 'L' else dims[0])
        for a, kind, dim in zip(attn, kinds, dims)
    ]
    heads = [n if n and dim % n == 0 else 1 for n, dim in zip(heads, dims)]
    found = dict(
        embed_dims=tuple(dims),
        depths=tuple(count_children(state_dict, f'layers.{i}.blocks.') for i in stages),
        num_heads=tuple(heads),
        mlp_ratios=tuple(
            state_dict[f'layers.{i}.blocks.0.mlp.fc1.weight'].shape[0] / dims[i] for i in stages
        ),
        attn_types=''.join(kinds),
        sr_ratios=tuple(ratios),
        norm_layer=norm_type(state_dict),
        qkv_bias=f'{attn[0]}kv.bias' in state_dict,
        in_chans=state_dict['patch_embed.proj.weight'].shape[1],
        num_classes=len(state_dict.get('head.fc.bias', torch.empty(0))),
    )
    side = _grid_side(state_dict, ratios)
    return found if side is None else {**found, 'img_size': 4 * side}


def _grid_side(state_dict: Weights, ratios: list) -> int | None:
    """Return the side of the first stage's square grid, None where there is no such."""
    for key, ratio in (
        ('layers.0.absolute_pos_embed', 1),
        ('layers.0.blocks.0.attn.positional_encoding', ratios[0]),
    ):
        if key in state_dict:
            tokens = state_dict[key].shape[1]
            side = round(tokens**0.5)
            return side * ratio if side * side == tokens else None
    return None


def _matches(state_dict: Weights) -> bool:
    return is_pyramid(state_dict) and not has_conv_mlp(state_dict)


SHOWN: tuple[str, ...] = ('embed_dims', 'depths', 'attn_types', 'sr_ratios')

FAMILY = Family(
    'pvt',
    'Pyramid Vision Transformer',
    'PyramidVisionTransformer',
    _matches,
    translate,
    arguments,
    grids=(('absolute_pos_embed', 'bilinear'), ('positional_encoding', 'bilinear')),
    shown=SHOWN,
)
