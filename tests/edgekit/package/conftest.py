"""A bundle that needs only numpy, keys that sign packages, and the tools that test them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.writer import write_bundle
from edgekit.package import package
from edgekit.package.request import make_request
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

Make = Callable[..., Path]
WEIGHTS = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
GOLDEN = np.ones((3, 1, 2, 2, 3), np.float32)
ARTIFACT = "variants/v/weights.npy"


@pytest.fixture(scope="session")
def make_bundle(linear: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Write a linear classifier of 2x2 RGB images, optionally with changes to the manifest."""
    described = {
        "model_name": "Quarters of Images",
        "model_version": "1.2",
        "inputs": (InputSpec("image", (1, 2, 2, 3), "float32"),),
        "outputs": (OutputSpec("scores", (1, 4), "float32"),),
    }

    def write(*, folder: bool = False, artifact: bytes | None = None, **parts: Any) -> Path:
        manifest, files = linear(WEIGHTS, GOLDEN, 1e-3, **(described | parts))
        path = tmp_path_factory.mktemp("bundle") / ("quarters" if folder else "quarters.edgekit")
        write_bundle(manifest, files | ({ARTIFACT: artifact} if artifact else {}), path, as_directory=folder)
        return path

    return write


@pytest.fixture(scope="session")
def bundle(make_bundle: Make) -> Path:
    """The classifier as a file."""
    return make_bundle()


@pytest.fixture
def write(bundle: Path, tmp_path: Path) -> Make:
    """Package the classifier "quarters" and return the path."""

    def make(kind: str, out: str, of: Path = bundle, board: Path | None = None, **options: Any) -> Path:
        package(kind, make_request(of, **{"name": "quarters", **options}), tmp_path / out, board)
        return tmp_path / out

    return make


@dataclass(frozen=True)
class Signer:
    """A signing key and its certificate."""

    key: Path
    cert: Path
    public: Path


@pytest.fixture(scope="session")
def make_signer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Signer]:
    """Make a new RSA key with a certificate for RAUC and SWUpdate."""

    def make() -> Signer:
        folder = tmp_path_factory.mktemp("signer")
        modern, key, cert, public = (folder / name for name in ("pkcs8.pem", "key.pem", "cert.pem", "public.pem"))
        usage = ("-addext", "extendedKeyUsage=emailProtection,codeSigning", "-addext", "keyUsage=digitalSignature")
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a", "-keyout", modern, "-out", cert, *usage
        )
        openssl("pkey", "-in", modern, "-traditional", "-out", key)
        openssl("pkey", "-in", key, "-pubout", "-out", public)
        return Signer(key, cert, public)

    return make


@pytest.fixture(scope="session")
def signer(make_signer: Callable[[], Signer]) -> Signer:
    """The key that signs the packages."""
    return make_signer()


@pytest.fixture(scope="session")
def stranger(make_signer: Callable[[], Signer]) -> Signer:
    """Another key."""
    return make_signer()


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=True)


@pytest.fixture
def call() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program, which may fail, and return its combined output."""

    def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            **options,
        )

    return run


@pytest.fixture
def flip() -> Callable[[Path, bytes], None]:
    """Flip one bit of a file at the position of some bytes."""

    def change(path: Path, where: bytes) -> None:
        content = bytearray(path.read_bytes())
        content[content.index(where)] ^= 1
        path.write_bytes(content)

    return change
