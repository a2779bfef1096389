"""What an OpenVINO IR file says of itself: the version of OpenVINO that it needs."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from edgekit_runtime.host.machine import version_numbers

# The release that brought an operator set (OpenVINO's opset pages); 2022.1 was also the first to read this IR format.
OPSETS = {8: "2022.1", 9: "2022.3", 10: "2023.0"}
# The first release that computes correctly with 4-bit weights: 2023.3 refuses some, and 2023.0 accepts them all and
# computes wrong values.
FOUR_BIT_VERSION = "2024.0"


def lowest_version(path: Path) -> str:
    """Return the lowest version of OpenVINO that opens a file: the release of its newest operator set.

    For an operator set newer than the known ones it is the installed version.
    """
    text = path.read_text(encoding="utf-8")
    used = max((int(number) for number in re.findall(r'version="opset(\d+)"', text)), default=1)
    release = OPSETS.get(max(used, min(OPSETS))) or metadata.version("openvino").split("-")[0]
    four_bits = re.search(r'element_type="[iu]4"', text) is not None
    return max(release, FOUR_BIT_VERSION, key=version_numbers) if four_bits else release
