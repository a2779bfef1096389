"""A Yocto recipe that installs the bundle as a folder, so that boards memory-map its weights."""

from __future__ import annotations

from pathlib import Path

from edgekit.package.bundle_contents import BundleContents
from edgekit.package.request import READ_ONLY_FOLDER, PackageRequest

RECIPE = """\
SUMMARY = "The model {model} as an edgekit bundle"
DESCRIPTION = "The model {model} in {variants} variants, to be opened with edgekit_runtime.load()."
HOMEPAGE = "https://pypi.org/project/edgekit/"
SECTION = "misc"
LICENSE = "CLOSED"

SRC_URI = "file://{name}"

inherit allarch

# Releases before 5.1 unpack into WORKDIR.
UNPACKDIR ??= "${{WORKDIR}}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {{
    install -d ${{D}}{where}
    cp -R --no-preserve=ownership ${{UNPACKDIR}}/{name}/. ${{D}}{where}/
}}

FILES:${{PN}} += "{where}"
"""


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write a folder for ``recipes-…`` of a layer: the recipe and the bundle."""
    recipe = f"edgekit-model-{request.name}"
    where = request.path or f"{READ_ONLY_FOLDER}/{request.name}"
    contents.write_folder(out / "files" / request.name)
    text = RECIPE.format(
        model=_text(contents.manifest.model_name),
        variants=len(contents.manifest.variants),
        name=request.name,
        where=_variables(where),
    )
    (out / f"{recipe}_{request.version}.bb").write_text(text, encoding="utf-8")
    return [
        f'copy it into a layer, and set IMAGE_INSTALL:append = " {recipe}"; applications load({where!r})',
        "LICENSE is CLOSED: replace it with the license of the model",
    ]


def _variables(path: str) -> str:
    """Return the path with the recipe variable ``datadir``, because a distribution may move its folders."""
    return path.replace("/usr/share/", "${datadir}/", 1) if path.startswith("/usr/share/") else path


def _text(text: str) -> str:
    """Return a text without quotes and expansions."""
    return "".join(character for character in text if character not in '"\\$`{}')
