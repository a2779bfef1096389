"""``edgekit sign``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from edgekit.bundle.signing import read_private_key
from edgekit.bundle.signing import sign as sign_bundle
from edgekit.cli.write_errors import writing


@click.command()
@click.argument("bundle")
@click.option("--key", "keys", multiple=True, required=True, metavar="KEY.pem", help="Private key; repeatable.")
@click.option("--add", is_flag=True, help="Keep existing signatures, for example while a key is being replaced.")
@click.option("-o", "--output", metavar="OUT", help="Write the signed bundle here.  [default: sign BUNDLE itself]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: str, keys: tuple[str, ...], add: bool, output: str | None, as_json: bool) -> None:
    """Sign all files of BUNDLE in the OpenSSF Model Signing format, and add the signature to it.

    A bundle folder can also be verified with `model_signing verify key`.

    \b
    Examples:
      edgekit sign model.edgekit --key release.pem
      edgekit sign model.edgekit --key new.pem --add
      edgekit verify model.edgekit --key release.pub.pem
    """
    signers = [read_private_key(key) for key in keys]
    with writing(output or bundle):
        signed = sign_bundle(bundle, signers, output, add=add)
    if as_json:
        click.echo(json.dumps(asdict(signed), indent=2))
        return
    click.echo(f"{signed.bundle}: {signed.files} files signed by {', '.join(key_id[:16] for key_id in signed.key_ids)}")
