"""Small networks, each with one operation that is hard for a tool that follows channels."""

from __future__ import annotations

import torch
from torch import nn


class Upscaler(nn.Module):
    """Super-resolution: PixelShuffle turns four channels into one of twice the height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 64, 3), nn.Conv2d(16, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) → (N, 3, 2H - 10, 2W - 10)."""
        x = nn.functional.pixel_shuffle(self.wide(self.first(x).relu()), 2)
        upscaled: torch.Tensor = self.last(x.relu())
        return upscaled


class Tagger(nn.Module):
    """A recurrent network between two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(12, 16), nn.Linear(20, 5)
        self.recurrent = nn.LSTM(16, 20, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, steps, 12) → (N, steps, 5)."""
        tags: torch.Tensor = self.head(self.recurrent(self.first(x).relu())[0])
        return tags


class SplitConcat(nn.Module):
    """The block of recent YOLO detectors: unequal split, a chain of residual blocks, concatenation of all parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 24, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.join, self.head = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) → (N, 5, H - 2, W - 2)."""
        wide, narrow = self.stem(x).relu().split((16, 8), 1)
        joined = self.join(torch.cat([wide, narrow, narrow + self.inner(narrow)], 1))
        boxes: torch.Tensor = self.head(joined.relu())
        return boxes


class NormalizedChannels(nn.Module):
    """An element-wise use of a reduction over channels, as in global response normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) → (N, 5, H - 2, W - 2)."""
        x = self.stem(x).relu()
        scores: torch.Tensor = self.head(x / x.mean(1, keepdim=True).add(1))
        return scores


class ScoreMatrix(nn.Module):
    """A product of two matrices of features, as in bilinear pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3), nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) → (N, 5)."""
        product = self.left(x).flatten(2) @ self.right(x).flatten(2).transpose(1, 2)
        scores: torch.Tensor = self.head(product.flatten(1))
        return scores
