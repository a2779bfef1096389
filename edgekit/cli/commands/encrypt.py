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
@click.option("--key", metavar="FILE", help="File with 64 hex digits.  [default: $EDGEKIT_KEY_FILE, or $EDGEKIT_KEY]")
@click.option("-o", "--output", metavar="OUT", required=True, help="The encrypted bundle to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: str, key: str | None, output: str, as_json: bool) -> None:
    """Encrypt the artifacts of BUNDLE with AES-256-GCM. A board with the key decrypts them only in memory.

    \b
    Examples:
      edgekit keygen --type aes artifacts.key
      edgekit encrypt model.edgekit --key artifacts.key -o sealed.edgekit
      edgekit sign sealed.edgekit --key release.pem
      EDGEKIT_KEY_FILE=artifacts.key edgekit run sealed.edgekit cat.jpg
    """
    secret = find_key(key)
    with writing(output):
        result = encrypt(bundle, secret, output)
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2))
        return
    click.echo(f"{result.bundle}: encrypted {', '.join(result.files)}")
