"""``edgekit inspect``."""

from __future__ import annotations

import json

import click

from edgekit_runtime import open_bundle
from edgekit_runtime.commands.render import manifest_lines
from edgekit_runtime.format.manifest import SIGNATURE_NAME
from edgekit_runtime.format.manifest_json import manifest_to_json
from edgekit_runtime.trust.signature import read_envelope


@click.command()
@click.argument("bundle")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(bundle: str, as_json: bool) -> None:
    """Show the content of BUNDLE: the model, its variants, their measurements and the devices.

    No engine is loaded, so this also works on machines that cannot run the bundle.
    """
    with open_bundle(bundle, trust=False) as opened:
        manifest, signature = opened.manifest, opened.unlisted().get(SIGNATURE_NAME)
    if as_json:
        click.echo(json.dumps(json.loads(manifest_to_json(manifest)), indent=2))
        return
    for line in manifest_lines(manifest):
        click.echo(line)
    if signature is not None:
        claimed = ", ".join(key_id[:16] or "an unnamed key" for key_id in read_envelope(signature).key_ids)
        click.echo(f"  signed   by {claimed} (claimed; edgekit verify --key PUB.pem checks it)")
