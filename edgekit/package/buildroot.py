"""A Buildroot package that installs the bundle as a folder, so that boards memory-map its weights."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.package.bundle_contents import BundleContents
from edgekit.package.request import READ_ONLY_FOLDER, PackageRequest

CONFIG = """\
config BR2_PACKAGE_{variable}
\tbool "{package}"
\thelp
\t  The model {model} as an edgekit bundle, in {where}.
\t  Applications open it with edgekit_runtime.load().
"""
MAKEFILE = """\
################################################################################
#
# {package}
#
################################################################################

{variable}_VERSION = {version}
{variable}_SITE = $({variable}_PKGDIR)/model
{variable}_SITE_METHOD = local

define {variable}_INSTALL_TARGET_CMDS
\tmkdir -p $(TARGET_DIR){where}
\tcp -R $(@D)/. $(TARGET_DIR){where}/
\trm -f $(TARGET_DIR){where}/.stamp_* $(TARGET_DIR){where}/.files-list*
endef

$(eval $(generic-package))
"""


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write a folder for ``package/`` of a Buildroot tree or an external tree."""
    package = "edgekit-model-" + re.sub("[+.]", "-", request.name)
    where = request.path or f"{READ_ONLY_FOLDER}/{request.name}"
    names = {"package": package, "variable": package.upper().replace("-", "_"), "where": where}
    contents.write_folder(out / "model")
    model = re.sub(r"[^ \w.,-]", "", contents.manifest.model_name)
    (out / "Config.in").write_text(CONFIG.format(model=model, **names), encoding="utf-8")
    (out / f"{package}.mk").write_text(MAKEFILE.format(version=request.version, **names), encoding="utf-8")
    return [f"copy the folder to package/{package}, and source its Config.in; applications load({where!r})"]
