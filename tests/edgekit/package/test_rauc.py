"""The RAUC bundle, read, extracted and installed with the real rauc on a private bus.

Mounting a bundle of the format "verity" takes the kernel's device mapper. Where that is missing, what is installed is
the same content in RAUC's format "plain"; the signed bundle is read and unpacked all the same.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgekit_runtime import load
from edgekit_runtime.errors import PlanError

pytestmark = pytest.mark.needs_updaters
DEVICE_MAPPER = "device-mapper" in Path("/proc/misc").read_text()
# How the files of examples/fleet/rauc become a board: its partitions are files, and its boot loader does nothing.
PARTITIONS = "/dev/disk/by-partlabel"
NO_BOOT_LOADER = "bootloader=noop\nmountprefix={folder}/mnt\ndata-directory={folder}/data"
# The service on a bus of its own, then the bundles; waits until the service answers.
SERVE = """\
export DBUS_SYSTEM_BUS_ADDRESS="$DBUS_SESSION_BUS_ADDRESS"
rauc --conf=system.conf --override-boot-slot=A service & service=$!
for i in $(seq 100); do rauc --conf=system.conf status >/dev/null 2>&1 && break; sleep 0.05; done
rauc --conf=system.conf install "$1"; ended=$?
kill $service
exit $ended
"""


@pytest.fixture
def make(write, signer):
    """Write a bundle for the board cam-2."""

    def bundle(out="quarters.raucb", **options):
        return write("rauc", out, **{"compatible": ("cam-2",), "key": signer.key, "cert": signer.cert, **options})

    return bundle


@pytest.fixture
def extract(call, signer, tmp_path):
    """Verify and extract a bundle with rauc."""

    def run(bundle, folder="content"):
        done = call("rauc", "extract", f"--keyring={signer.cert}", bundle, tmp_path / folder)
        assert done.returncode == 0, done.stdout
        return tmp_path / folder

    return run


@pytest.fixture
def install(call, signer, repository, tmp_path):
    """Install a bundle on the board of the example, with files as slots. Return the output of rauc and the slots."""

    def run(bundle):
        board = tmp_path / "board"
        (board / "data").mkdir(parents=True)
        slots = {name: board / name for name in ("rootfs-a", "rootfs-b", "model-a", "model-b")}
        for image in slots.values():
            image.write_bytes(bytes(1 << 20))
        text = (repository / "examples/fleet/rauc/system.conf").read_text()
        text = text.replace("bootloader=uboot", NO_BOOT_LOADER.format(folder=board)).replace(PARTITIONS, str(board))
        text = text.replace("/etc/rauc/keyring.pem", str(signer.cert))
        formats = "bundle-formats=verity"
        (board / "system.conf").write_text(text if DEVICE_MAPPER else text.replace(formats, formats + " plain"))
        return call("dbus-run-session", "--", "sh", "-c", SERVE, "sh", bundle, cwd=board), slots

    return run


def test_rauc_reads_it_with_the_keyring(make, call, signer):
    done = call("rauc", "info", f"--keyring={signer.cert}", make())
    assert done.returncode == 0
    for words in ("Compatible: \t'cam-2'", "Version:    \t'1.2'", "verity", "[model]", "quarters.squashfs"):
        assert words.replace("\t", "").replace(" ", "") in done.stdout.replace("\t", "").replace(" ", "")


def test_the_image_is_the_bundle(make, extract, call, bundle, make_bundle, tmp_path):
    content = extract(make())
    assert call("unsquashfs", "-no-xattrs", "-d", tmp_path / "tree", content / "quarters.squashfs").returncode == 0
    compared = call("diff", "-r", tmp_path / "tree", make_bundle(folder=True))
    assert (compared.returncode, compared.stdout) == (0, "")


def test_the_image_is_the_same_each_time(make, extract):
    images = [extract(make(name), folder) / "quarters.squashfs" for name, folder in (("one", "1"), ("two", "2"))]
    assert images[0].read_bytes() == images[1].read_bytes()


def _installable(content: Path, signer, call) -> Path:
    """Repack the content in the format that a kernel without device mapper can mount."""
    manifest = content / "manifest.raucm"
    manifest.write_text(manifest.read_text().replace("format=verity", "format=plain"))
    out = content.with_suffix(".raucb")
    done = call("rauc", "bundle", f"--key={signer.key}", f"--cert={signer.cert}", content, out)
    assert done.returncode == 0, done.stdout
    return out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_rauc_installs_it_into_the_inactive_slot(make, extract, install, signer, call, tmp_path):
    signed = make()
    content = extract(signed)
    image = (content / "quarters.squashfs").read_bytes()
    done, slots = install(signed if DEVICE_MAPPER else _installable(content, signer, call))
    assert done.returncode == 0, done.stdout
    assert slots["model-b"].read_bytes()[: len(image)] == image
    assert not any(slots["model-a"].read_bytes())
    (tmp_path / "mounted").mkdir()
    unpacked = call("unsquashfs", "-no-xattrs", "-d", tmp_path / "tree", slots["model-b"])
    assert unpacked.returncode == 0, unpacked.stdout
    with load(tmp_path / "tree") as model:
        assert model.manifest.model_version == "1.2"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_another_board_refuses_it(make, extract, install, signer, call):
    signed = make(compatible=("cam-3",))
    done, slots = install(signed if DEVICE_MAPPER else _installable(extract(signed), signer, call))
    assert done.returncode != 0
    assert "Compatible mismatch" in done.stdout
    assert not any(slots["model-b"].read_bytes())


def test_a_foreign_key_and_a_tampered_bundle_are_refused(make, call, signer, stranger, tmp_path):
    foreign = make("foreign.raucb", key=stranger.key, cert=stranger.cert)
    assert "signature verification failed" in call("rauc", "info", f"--keyring={signer.cert}", foreign).stdout
    tampered = make("tampered.raucb")
    content = bytearray(tampered.read_bytes())
    content[content.index(b"hsqs", 4) + 100] ^= 1  # in the image, behind the bundle's own header
    tampered.write_bytes(content)
    done = call("rauc", "extract", f"--keyring={signer.cert}", tampered, tmp_path / "content")
    assert done.returncode != 0
    assert "bundle payload is corrupted" in done.stdout


@pytest.mark.parametrize(
    ("options", "section"), [({}, "[slot.model.1]"), ({"repository": "models"}, "[artifacts.models]")]
)
def test_the_board_files_are_valid_configuration(make, tmp_path, options, section):
    make(board=tmp_path / "overlay", **options)
    text = (tmp_path / "overlay/etc/rauc/edgekit-system.conf").read_text()
    assert section in re.findall(r"^\[.*\]$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"compatible": ("cam-2", "cam-3")}, "RAUC takes one name"),
        ({"compatible": ("cam\n[x]",)}, "one line of plain text"),
        ({"slot": "model.0"}, "--slot model.0: give the name of a slot class"),
        ({"repository": "a/b"}, "--repository a/b: give the name of an artifact repository"),
        ({"repository": "models", "name": "quarters.eu"}, "give a --name without dots"),
    ],
)
def test_names_with_a_special_meaning_are_refused(make, tmp_path, options, said):
    with pytest.raises(PlanError, match=re.escape(said)):
        make(**options)
    assert not list(tmp_path.iterdir())


def test_any_model_name_is_accepted(make, make_bundle, call, signer):
    bundle = make(of=make_bundle(model_name="C:\\models\\x = [y] # größer"))
    assert call("rauc", "info", f"--keyring={signer.cert}", bundle).returncode == 0


def test_an_artifact_repository_gets_the_tree(make, extract, call, make_bundle, tmp_path):
    """Debian's rauc 1.8 extracts it; 1.13 and newer install it."""
    content = extract(make(repository="models"))
    assert "[image.models/quarters]" in (content / "manifest.raucm").read_text()
    (tmp_path / "tree").mkdir(0o700)
    assert call("tar", "-xf", content / "quarters.tar", "-C", tmp_path / "tree").returncode == 0
    assert (tmp_path / "tree").stat().st_mode & 0o777 == 0o755  # not everybody who runs models is root
    compared = call("diff", "-r", tmp_path / "tree", make_bundle(folder=True))
    assert (compared.returncode, compared.stdout) == (0, "")
