"""Write the bundle of this release, once: `python tests/compat/make.py`. Every later runtime must open it.

It uses what the format has and needs numpy alone to run: classes of 2x2 images, clear and encrypted, signed twice.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekit.bundle.encryption import encrypt_content
from edgekit.bundle.signing import read_private_key, sign
from edgekit.bundle.writer import write_bundle
from edgekit_runtime import __version__
from edgekit_runtime.format.manifest import (
    Accuracy,
    Golden,
    InputSpec,
    JoinedBinding,
    Manifest,
    OutputSpec,
    Postprocessing,
    Preprocessing,
    Requirements,
    TensorBinding,
    Variant,
)

HERE = Path(__file__).parent
KEY = bytes.fromhex((HERE / "artifacts.key").read_text())
PLAIN = TensorBinding(0, "x", "float32")
OUTPUTS = (TensorBinding(0, "y", "float32"),)
GOLDEN = Golden(("golden/y.npy",), (1e-5,))


def npy(array: np.ndarray) -> bytes:
    """Return an array as the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def variants() -> tuple[Variant, ...]:
    """Return a variant for another architecture, an unencrypted one and an encrypted one."""
    parts = TensorBinding(0, "a", "int8", 0.5, 3), TensorBinding(1, "b", "uint8", 0.25, 128)
    quantized = TensorBinding(0, "x", "int8", 0.0078125, 0)
    other = Variant(
        **{"name": "npu-int8", "engine": "of-a-later-release", "device": "npu", "scheme": "int8-static"},
        files=("variants/clear/weights.npy",),
        inputs=(quantized,),
        outputs=(JoinedBinding(1, parts),),
        golden=Golden(("golden/y.npy",), ((0.5, 0.25),)),
        delegate="edgetpu",
        requirements=Requirements(("none-there-is",), "2.14", 1 << 26),
        accuracy=Accuracy(0.975, 0.0025, 400),
        settings={"device": "usb"},
    )
    shared = {"engine": "null", "device": "cpu", "scheme": "float32", "inputs": (PLAIN,), "outputs": OUTPUTS}
    clear = Variant("clear", files=("variants/clear/weights.npy",), golden=GOLDEN, **shared)
    secret = Variant("secret", files=("variants/secret/weights.npy",), golden=GOLDEN, **shared)
    return other, clear, secret


def main() -> None:
    """Write the bundle; never overwrite one."""
    out = HERE / f"{__version__}.edgekit"
    if out.exists():
        sys.exit(f"{out} is there, and is kept as it is")
    random = np.random.default_rng(41)
    weights = random.normal(size=(2, 2, 3, 4)).astype(np.float32)
    images = random.normal(size=(2, 1, 2, 2, 3)).astype(np.float32)
    files = {
        "golden/x.npy": npy(images),
        "golden/y.npy": npy(images.reshape(2, 1, 12) @ weights.reshape(12, 4)),
        "labels.txt": b"north\neast\nsouth\nwest\n",
        "variants/clear/weights.npy": npy(weights),
        "variants/secret/weights.npy": encrypt_content(npy(weights), KEY, "variants/secret/weights.npy"),
    }
    manifest = Manifest(
        model_name="quarters",
        model_version=__version__,
        inputs=(InputSpec("image", (1, 2, 2, 3), "float32", "NHWC", Preprocessing((2, 2), 1 / 255, (0.5,), (0.25,))),),
        outputs=(OutputSpec("scores", (1, 4), "float32", "labels.txt"),),
        variants=variants(),
        files=(),
        golden_inputs=("golden/x.npy",),
        devices=({"name": "raspberry-pi-5", "arch": "aarch64", "variants": ["clear"], "note": "the writer's affair"},),
        recipe={"schemes": ["float32"]},
        calibration={"samples": 200},
        versions={"edgekit": __version__},
        postprocessing=Postprocessing("scores", "softmax", 0.05, 2),
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / out.name
        write_bundle(manifest, files, plain, encrypted=["variants/secret/weights.npy"])
        sign(plain, [read_private_key(HERE / f"for-tests-only-{kind}.pem") for kind in ("p256", "ed25519")], out)


if __name__ == "__main__":
    main()
