"""Weights with which nothing can hide: a fresh network gives almost the same answer to every input."""

import torch
from torch import nn

from vidact.models.non_local import NonLocal


@torch.no_grad()
def awake(network: nn.Module) -> nn.Module:
    """Answers of about 1 and features that differ."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise * (1.6 / parameter[0].numel()) ** 0.5)
        else:
            parameter.add_(0.3 * noise)
    for module in network.modules():
        if isinstance(module, NonLocal):  # its unscaled softmax would choose one place, and rounding which
            module.theta.weight.mul_(0.01)
            module.theta.bias.mul_(0.01)
    return network.eval()
