"""MobileNetV2 of Sandler et al. (arXiv:1801.04381, table 2) in PyTorch, with random weights."""

from __future__ import annotations

import torch
from torch import nn

# expansion, channels, blocks, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2() -> nn.Module:
    """The same module each time, (1, 3, 224, 224) → 1000 logits."""
    torch.manual_seed(20)
    layers: list[nn.Module] = [_convolution(3, 32, 3, 2)]
    channels = 32
    for expansion, width, blocks, stride in STAGES:
        for place in range(blocks):
            layers.append(Block(channels, width, expansion, stride if place == 0 else 1))
            channels = width
    layers.append(_convolution(channels, 1280, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


class Block(nn.Module):
    """An inverted residual: widen, look around in each channel, narrow."""

    def __init__(self, ins: int, outs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * ins
        widen = [_convolution(ins, inner, 1)] if expansion > 1 else []
        narrow = [nn.Conv2d(inner, outs, 1, bias=False), nn.BatchNorm2d(outs)]
        self.layers = nn.Sequential(*widen, _convolution(inner, inner, 3, stride, inner), *narrow)
        self.residual = stride == 1 and ins == outs

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, ins, H, W) → (N, outs, H / stride, W / stride)."""
        found: torch.Tensor = self.layers(image)
        return image + found if self.residual else found


def _convolution(ins: int, outs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    padding = (kernel - 1) // 2
    convolution = nn.Conv2d(ins, outs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outs), nn.ReLU6())
