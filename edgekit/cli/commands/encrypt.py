"""``edgekit encrypt``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from edgekit.bundle.encryption import encrypt
from edgekit.cli.write_errors import writing
from edgekit_runtime.trust.encryption import find_key


@click.command()
@click.argument("bundle")
@click.option("--key", metavar="FILE", help="Of 64 hexadecimal digits.  [default: $EDGEKIT_KEY_FILE, or $EDGEKIT_KEY]")
@click.option("-o", "--output", metavar="OUT", required=True, help="The encrypted bundle to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: str, key: str | None, output: str, as_json: bool) -> None:
    """Encrypt the artifacts of BUNDLE with AES-256-GCM; a board with the key opens them in memory alone.

    \b
    Examples:
      edgekit keygen --type aes artifacts.key
      edgekit encrypt model.edgekit --key artifacts.key -o sealed.edgekit
      edgekit sign sealed.edgekit --key release.pem
      EDGEKIT_KEY_FILE=artifacts.key edgekit run sealed.edgekit cat.jpg
    """
    secret = find_key(key)
    with writing(output):
        made = encrypt(bundle, secret, output)
    if as_json:
        click.echo(json.dumps(asdict(made), indent=2))
        return
    click.echo(f"{made.bundle}: encrypted {', '.join(made.files)}")
