"""What cutting a PyTorch module must never change, on every pattern that nets are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.load import Live, open_source
from edgekit_converters.prune import Anatomy, CutRequest, DissectRequest, cut, dissect
from edgekit_converters.records import Cut, Source, SourceRequest

pytestmark = pytest.mark.needs_torch

HERE = Path(__file__).parent
# function of torch_nets.py: (input shape, kinds of groups that it must have)
NETS = {
    "residual": ("1,3,8,8", {"channels"}),
    "concatenated": ("1,3,8,8", {"channels"}),
    "inverted": ("1,3,8,8", {"channels"}),
    "grouped": ("1,3,8,8", {"channels"}),
    "flattened": ("1,3,8,8", {"channels", "neurons"}),
    "squeezed": ("1,3,8,8", {"channels", "neurons"}),
    "group_normalized": ("1,3,8,8", {"channels"}),
    "padded": ("1,3,8,8", {"channels"}),
    "shuffled": ("1,3,8,8", {"channels"}),
    "gated": ("1,16", {"neurons"}),
    "scaled": ("1,3,8,8", {"channels"}),
    "upsampled": ("1,3,8,8", {"channels"}),
    "frozen": ("1,3,8,8", {"channels"}),
    "hidden_size": ("1,3,8,8", {"channels"}),
    "repeated": ("1,3,8,8", {"channels", "neurons"}),
    "hand_written": ("1,6,16", {"heads", "neurons"}),
    "fused": ("1,6,16", {"heads"}),
    "encoder": ("1,6:int64", {"heads", "neurons"}),
    "attending": ("1,6,16", {"heads"}),
}


def source_of(name: str, shape: str) -> Source:
    from edgekit.options import parse_input_shape
    from edgekit_converters.load import load

    request = SourceRequest("python", HERE / "torch_nets.py", function=name, input_shapes=(parse_input_shape(shape),))
    return load(request, HERE)


def inputs_of(live: Live) -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    return [
        generator.standard_normal(spec.shape).astype(spec.dtype)
        if spec.dtype == "float32"
        else generator.integers(0, 9, spec.shape).astype(spec.dtype)
        for spec in live.inputs
    ]


def every_other(anatomy: Anatomy) -> tuple[Cut, ...]:
    return tuple(Cut(group.name, tuple(range(0, group.width, 2))) for group in anatomy.groups)


def silence(live: Live, anatomy: Anatomy, cuts: tuple[Cut, ...]) -> None:
    """Zero all weights by which any layer reads what the cuts take away."""
    import torch

    from edgekit_converters.prune import torch_modules
    from edgekit_converters.prune.torch_seams import places

    seams = torch_modules.opened(live).seams
    gone = seams.gone({one.group: one.kept for one in cuts})
    for (layer, side), line in seams.lines().items():
        module: Any = dict(live.handle.module.named_modules()).get(layer)
        if side == "in" and getattr(module, "groups", 1) == 1 and (out := places(line, gone)):
            with torch.no_grad():
                module.weight.transpose(0, int(not getattr(module, "transposed", False)))[out] = 0


@pytest.mark.parametrize("name", NETS)
def test_channels_that_nobody_reads_can_be_cut_without_a_trace(name: str, tmp_path: Path) -> None:
    shape, kinds = NETS[name]
    source = source_of(name, shape)
    anatomy = dissect(DissectRequest(source), tmp_path)
    assert {group.kind for group in anatomy.groups} == kinds, anatomy.groups
    cuts = every_other(anatomy)
    live = open_source(source.request)
    if name not in ("encoder", "attending"):  # whose attention is another module after a cut
        silence(live, anatomy, cuts)
    wanted = live.run(inputs_of(live))
    small = open_source(cut(CutRequest(source, cuts), tmp_path))
    got = small.run(inputs_of(small))
    if name not in ("encoder", "attending"):
        for one, other in zip(wanted, got, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 * max(1.0, np.abs(one).max()))
    open_source.cache_clear()
