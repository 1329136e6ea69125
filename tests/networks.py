"""Networks in a state in which errors show: settled statistics, published weights."""

import torch
from torch import Tensor, nn

from slab_det.checkpoints import convert_state_dict
from slab_det.layers import RepBN, set_ratio
from tests import golden


def load_published(name: str, model: nn.Module, ratio: float = 0.0):
    """Fill ``model`` with the weights behind the golden file ``name``; return the file."""
    file = golden.load(name)
    weights, _ = convert_state_dict(golden.published_state_dict(file, ratio), model.state_dict())
    model.load_state_dict(weights)
    return file


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm different statistics, affine parameters and eta, and every position a
    value; one folded scale per norm comes out near 0. The ratio is 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, RepBN):
                bn = module.bn
                for tensor in (bn.running_mean, bn.weight, bn.bias, module.eta):
                    normal(tensor)
                bn.running_var.copy_(
                    0.3 + 2 * torch.rand(bn.running_var.shape, generator=generator)
                )
                bn.weight[0] = -(module.eta[0] + 1e-9) * (bn.running_var[0] + bn.eps).sqrt()
        for name, parameter in model.named_parameters():
            if name.endswith(('positional_encoding', 'pos_embed', 'cls_token', '.bias')):
                normal(parameter)
    set_ratio(model, 0)
    return model.eval()


def randomize(model: nn.Module) -> nn.Module:
    """Give every parameter of a network of another library a value that shows in its output."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            else:
                parameter.normal_(mean=float(name.endswith('weight')), std=0.3)
    model.eval()  # mmdet's eval returns nothing
    return model
