"""The lowest version of an engine's library that can open an artifact, as far as the artifact tells."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

# The release that brought an operator set (OpenVINO's opset pages); 2022.1 was also the first to read this IR format.
OPSETS = {8: "2022.1", 9: "2022.3", 10: "2023.0"}


def lowest_version(engine: str, path: Path) -> str | None:
    """Return the version in the numbering of ``Requirements.engine_version``, or None where nothing tells."""
    return _of_tflite(path) if engine == "litert" else _of_ir(path)


def _of_tflite(path: Path) -> str | None:
    """Return what the converter noted as ``min_runtime_version``; it is a release of TensorFlow."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    for entry in (model.Metadata(index) for index in range(model.MetadataLength())):
        buffer = model.Buffers(entry.Buffer())
        if entry.Name() == b"min_runtime_version" and buffer.DataLength():
            text = bytes(buffer.DataAsNumpy()).split(b"\0")[0].decode("ascii", "replace")
            return text if re.fullmatch(r"\d+(\.\d+)*", text) else None
    return None


def _of_ir(path: Path) -> str | None:
    """Return the release that brought the newest operator set in use; of newer ones than known, this release."""
    text = path.read_text(encoding="utf-8")
    used = max((int(number) for number in re.findall(r'version="opset(\d+)"', text)), default=1)
    return OPSETS.get(max(used, min(OPSETS))) or metadata.version("openvino").split("-")[0]
