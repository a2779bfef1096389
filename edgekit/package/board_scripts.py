"""The common part of scripts on a board: find the Python that has the runtime, or explain that it is missing."""

from __future__ import annotations

# /etc/default/edgekit may set EDGEKIT_PYTHON to the Python of a virtual environment, and EDGEKIT_INSTALL to options of
# `install`, such as --confirm heartbeat.
FIND_RUNTIME = """\
[ ! -r /etc/default/edgekit ] || . /etc/default/edgekit
runtime() {
    "${EDGEKIT_PYTHON:-python3}" -m edgekit_runtime "$@"
}
if ! "${EDGEKIT_PYTHON:-python3}" -c 'import edgekit_runtime' 2>/dev/null; then
    echo "edgekit: ${EDGEKIT_PYTHON:-python3} has no edgekit_runtime: pip install edgekit-runtime," \\
        "or name the Python that has it as EDGEKIT_PYTHON in /etc/default/edgekit" >&2
    exit 1
fi
"""
