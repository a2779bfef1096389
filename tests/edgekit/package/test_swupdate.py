"""The .swu, installed into a folder by the real swupdate."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgekit_runtime import load

pytestmark = pytest.mark.needs_updaters


@pytest.fixture
def make(write, signer, tmp_path):
    """Write an image that replaces tmp_path/board/quarters.edgekit."""

    def image(out="quarters.swu", board="cam:2.0", **options):
        where = str(tmp_path / "board/quarters.edgekit")
        keys = {"key": signer.key, "cert": signer.cert}
        return write("swupdate", out, **{"compatible": (board,), "path": where, **keys, **options})

    return image


@pytest.fixture
def install(call, signer, tmp_path):
    """Run swupdate as a board would."""

    def run(image, board="cam:2.0", cert=signer.cert):
        seen = {**os.environ, "EDGEKIT_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path)}
        return call("swupdate", "-l", "4", "-k", cert, "-H", board, "-i", image, cwd=tmp_path, env=seen)

    return run


def test_the_file_on_the_board_is_the_bundle(make, install, bundle, tmp_path):
    done = install(make())
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "board/quarters.edgekit").read_bytes() == bundle.read_bytes()
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["quarters.edgekit"]


def test_a_store_is_installed_into_after_the_file(make, install, tmp_path):
    done = install(make(store=str(tmp_path / "store")))
    assert done.returncode == 0, done.stdout
    with load(tmp_path / "store") as model:
        assert model.manifest.model_version == "1.2"


def test_several_boards_are_told_apart(make, install):
    image = make(compatible=("cam:2.0", "cam:2.1", "gate:1"))
    assert [install(image, board).returncode for board in ("cam:2.0", "cam:2.1", "gate:1", "gate:2", "door:1")] == [
        *(0, 0, 0),
        *(1, 1),
    ]


@pytest.mark.parametrize("where", [b"NUMPY", b"hardware-compatibility"], ids=["payload", "description"])
def test_a_tampered_image_is_refused_and_what_was_there_stays(make, install, flip, tmp_path, where):
    image = make()
    flip(image, where)
    (tmp_path / "board").mkdir()
    (tmp_path / "board/quarters.edgekit").write_text("as it was")
    assert install(image).returncode == 1
    assert (tmp_path / "board/quarters.edgekit").read_text() == "as it was"


def test_the_signature_of_a_stranger_and_none_are_refused(make, install, stranger, tmp_path):
    done = install(make(key=stranger.key, cert=stranger.cert))
    assert (done.returncode, (tmp_path / "board").exists()) == (1, False)
    unsigned = make("unsigned.swu", key=None, cert=None)
    assert install(unsigned).returncode == 1


def test_what_is_installed_already_is_not_written_again(make, call, signer, tmp_path):
    """swupdate compares with /etc/sw-versions, so this runs where that is a file of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    image = make()
    (tmp_path / "versions").write_text("quarters 1.2\n")
    script = f"touch /etc/sw-versions; mount --bind {tmp_path}/versions /etc/sw-versions && exec swupdate \"$@\""
    command = ("unshare", "--mount", "sh", "-c", script, "sh", "-l", "5", "-k", signer.cert, "-H", "cam:2.0", "-i", image)
    done = call(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "board").exists()


def test_signed_images_are_the_same_each_time(make):
    assert make("one.swu").read_bytes() == make("two.swu").read_bytes()


def test_cpio_reads_the_names_in_order(make):
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=make().read_bytes(), capture_output=True, check=True)
    assert listed.stdout.decode().split() == ["sw-description", "sw-description.sig", "quarters.edgekit"]


def test_a_board_without_its_revision_is_asked_for_it(make):
    from edgekit_runtime.errors import PlanError

    with pytest.raises(PlanError, match="SWUpdate wants NAME:REVISION"):
        make(board="cam")
