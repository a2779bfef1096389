"""The .swu, installed into a folder with the real swupdate."""

from __future__ import annotations

import os
import sys

import pytest

from edgekit_runtime import load

pytestmark = pytest.mark.needs_updaters


# What the installer says. `swupdate -i` of Debian's 2022.12 is two processes; the one that waits for the other now and
# then believes that it has ended, and ends it. Its exit code tells nothing then, and the image is installed again.
DONE, FAILED = "SWUPDATE successful !", "SWUPDATE failed [1]"
TRIES = 10


@pytest.fixture
def make(write, signer, tmp_path):
    """Write an image that replaces tmp_path/board/quarters.edgekit."""

    def image(out="quarters.swu", board="cam:2.0", overlay=None, **options):
        where = str(tmp_path / "board/quarters.edgekit")
        keys = {"key": signer.key, "cert": signer.cert}
        return write("swupdate", out, board=overlay, **{"compatible": (board,), "path": where, **keys, **options})

    return image


@pytest.fixture
def install(call, signer, tmp_path):
    """Run swupdate as on a board and return its output."""

    def run(image, board="cam:2.0", cert=signer.cert):
        seen = {"EDGEKIT_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
        command = ("swupdate", "-l", "4", "-k", cert, "-H", board, "-i", image)
        said = (call(*command, cwd=tmp_path, env={**os.environ, **seen}).stdout for _ in range(TRIES))
        return next(text for text in said if DONE in text or FAILED in text)

    return run


def test_the_file_on_the_board_is_the_bundle(make, install, bundle, tmp_path):
    assert DONE in install(make())
    assert (tmp_path / "board/quarters.edgekit").read_bytes() == bundle.read_bytes()
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["quarters.edgekit"]


def test_the_store_is_updated_after_the_file(make, install, tmp_path):
    assert DONE in install(make(store=str(tmp_path / "store")))
    with load(tmp_path / "store") as model:
        assert model.manifest.model_version == "1.2"


def test_several_boards_are_distinguished(make, install):
    image = make(compatible=("cam:2.0", "cam:2.1", "gate:1"))
    assert DONE in install(image, "cam:2.1")
    assert DONE in install(image, "gate:1")
    assert "not compatible with hardware" in install(image, "gate:2")
    assert FAILED in install(image, "door:1")


@pytest.mark.parametrize("where", [b"NUMPY", b"hardware-compatibility"], ids=["payload", "description"])
def test_a_tampered_image_is_refused_and_changes_nothing(make, install, flip, tmp_path, where):
    image = make()
    flip(image, where)
    (tmp_path / "board").mkdir()
    (tmp_path / "board/quarters.edgekit").write_text("as it was")
    said = install(image)
    assert FAILED in said
    assert DONE not in said
    assert (tmp_path / "board/quarters.edgekit").read_text() == "as it was"


def test_foreign_and_missing_signatures_are_refused(make, install, stranger, tmp_path):
    assert FAILED in install(make(key=stranger.key, cert=stranger.cert))
    assert FAILED in install(make("unsigned.swu", key=None, cert=None))
    assert not (tmp_path / "board").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_board_with_the_board_files_installs_it_once(make, call, signer, tmp_path):
    overlay = tmp_path / "overlay"
    image = make(overlay=overlay)
    mount = f'mount -t overlay overlay -o lowerdir={overlay}/etc:/etc /etc && exec swupdate "$@"'
    command = ("unshare", "--mount", "sh", "-c", mount, "sh", "-l", "5", "-k", signer.cert, "-i", image)
    assert any(DONE in call(*command, cwd=tmp_path).stdout for _ in range(TRIES))
    (tmp_path / "board/quarters.edgekit").write_text("as it was")
    (overlay / "etc/sw-versions").write_text("quarters 1.2\n")
    assert any("quarters(1.2) already installed, skipping" in call(*command, cwd=tmp_path).stdout for _ in range(TRIES))
    assert (tmp_path / "board/quarters.edgekit").read_text() == "as it was"


def test_signed_images_are_the_same_each_time(make):
    assert make("one.swu").read_bytes() == make("two.swu").read_bytes()


@pytest.mark.parametrize("board", ["cam", "2cam:1", "-x:1", "cam a:1", "version:1", "cam:1 2"])
def test_an_invalid_board_name_is_reported(make, board):
    from edgekit_runtime.errors import PlanError

    with pytest.raises(PlanError, match="SWUpdate needs NAME:REVISION"):
        make(board=board)
