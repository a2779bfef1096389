"""The lowest version of an engine's library that can open an artifact, as far as the artifact tells."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from edgekit_runtime.placement.requirements import numbers

# The release that brought an operator set (OpenVINO's opset pages); 2022.1 was also the first to read this IR format.
OPSETS = {8: "2022.1", 9: "2022.3", 10: "2023.0"}
# The first that computes with 4-bit weights what they mean. TensorFlow Lite 2.16 refuses them; OpenVINO 2023.3 refuses
# some, and 2023.0 takes them all and computes something else.
FOUR_BITS = {"litert": "2.17", "openvino": "2024.0"}


def lowest_version(engine: str, path: Path) -> str | None:
    """Return the version in the numbering of ``Requirements.engine_version``, or None where nothing tells."""
    found, four_bits = _of_tflite(path) if engine == "litert" else _of_ir(path)
    return max(found or "0", FOUR_BITS[engine], key=numbers) if four_bits else found


def _of_tflite(path: Path) -> tuple[str | None, bool]:
    """Return what the converter noted as ``min_runtime_version``, a release of TensorFlow, and if 4 bits are used."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    types = {graph.Tensors(index).Type() for graph in graphs for index in range(graph.TensorsLength())}
    return _noted(model), schema.TensorType.INT4 in types


def _noted(model: Any) -> str | None:
    for entry in (model.Metadata(index) for index in range(model.MetadataLength())):
        buffer = model.Buffers(entry.Buffer())
        if entry.Name() == b"min_runtime_version" and buffer.DataLength():
            text = bytes(buffer.DataAsNumpy()).split(b"\0")[0].decode("ascii", "replace")
            return text if re.fullmatch(r"\d+(\.\d+)*", text) else None
    return None


def _of_ir(path: Path) -> tuple[str | None, bool]:
    """Return the release of the newest operator set, of newer ones than known this release, and if 4 bits are used."""
    text = path.read_text(encoding="utf-8")
    used = max((int(number) for number in re.findall(r'version="opset(\d+)"', text)), default=1)
    release = OPSETS.get(max(used, min(OPSETS))) or metadata.version("openvino").split("-")[0]
    return release, re.search(r'element_type="[iu]4"', text) is not None
