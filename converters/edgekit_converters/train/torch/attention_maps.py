"""Attention maps of a PyTorch module: the strength of its features by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel


class AttentionMaps:
    """Looks at a module's features while it runs: of each size, (H, W), those that are computed last.

    A map is the mean of squares over the channels, so that any number of them gives the same shape, divided by its
    length (Zagoruyko & Komodakis, 2017, eq. 2): (b, H, W).
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._found: dict[tuple[int, ...], torch.Tensor] = {}
        for part in module.modules():
            part.register_forward_hook(self._record)

    def take(self) -> list[torch.Tensor]:
        """Return the maps since the last time, the largest first."""
        sizes = sorted(self._found, reverse=True)
        maps = [_map(self._found[size]) for size in sizes]
        self._found = {}
        return maps

    def _record(self, _module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            self._found[tuple(output.shape[2:])] = output


def observe_attention_maps(live: LoadedModel) -> Callable[[Arrays], tuple[Arrays, Arrays]]:
    """Return a function that runs a batch and returns its outputs and its attention maps."""
    maps = AttentionMaps(live.handle.module)

    def run(batch: Arrays) -> tuple[Arrays, Arrays]:
        outputs, seen = live.run(batch), [one.numpy() for one in maps.take()]
        if all(len(one) == len(batch[0]) for one in seen):
            return outputs, seen
        rows = [run([array[index : index + 1] for array in batch]) for index in range(len(batch[0]))]  # batch of 1 only
        return outputs, [
            np.concatenate(column) for column in zip(*(attention_maps for _, attention_maps in rows), strict=True)
        ]

    return run


def _map(features: torch.Tensor) -> torch.Tensor:
    """(b, C, H, W) → (b, H, W), each sample's of length 1."""
    strength = features.float().square().mean(dim=1)
    return strength / strength.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]
