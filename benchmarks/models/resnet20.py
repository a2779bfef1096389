"""The CIFAR ResNet-20 of He et al. 2015 (arXiv:1512.03385, section 4.2), for its published weights.

Its shortcuts have no parameters (option A): where the size halves, every other pixel is taken and the channels are
padded with zeros. Run as a script, it prints the accuracy of the weights in the shared data.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.added = channels - channels_in  # half of them before the old ones, half after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) → (N, channels, H / stride, W / stride)."""
        shortcut = x
        if self.added:
            shortcut = x[:, :, :: self.stride, :: self.stride]
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added // 2))
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + shortcut)


class ResNet(nn.Module):
    """Three stages of equal blocks at 32, 16 and 8 pixels, then the mean and a linear layer."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) → logits (N, 10)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1)))


def resnet20() -> nn.Module:
    """ResNet-20 with fresh weights, in evaluation mode."""
    return ResNet(blocks=3).eval()


def main() -> None:
    """Print the accuracy of the published weights on the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("EDGEKIT_DATA", "../shared/data"), type=Path)
    args = parser.parse_args()
    path = args.data / "pytorch_resnet20/resnet20-12fca82f.th"
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = resnet20()
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    test = np.load(args.data / "cifar10/test.npz")
    x = ((test["x"] / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)  # (10000, 3, 32, 32)
    with torch.inference_mode():
        found = torch.cat([model(batch).argmax(dim=1) for batch in torch.from_numpy(x).split(256)])
    print(f"accuracy {np.mean(found.numpy() == test['y']):.4f}")


if __name__ == "__main__":
    main()
