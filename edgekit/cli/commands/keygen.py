"""``edgekit keygen``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.bundle.signing import KEY_TYPES, make_key


@click.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "kind",
    type=click.Choice(KEY_TYPES),
    default="p256",
    show_default=True,
    help="p256 (also read by model_signing) and ed25519 sign bundles; aes encrypts artifacts.",
)
def command(key: Path, kind: str) -> None:
    """Make a key pair: the private key KEY.pem, which signs, and the public key KEY.pub.pem, which verifies.

    If $EDGEKIT_KEY_PASSWORD is set, the private key is encrypted with that password.

    \b
    Examples:
      edgekit keygen release.pem
      edgekit keygen --type ed25519 release.pem
      edgekit keygen --type aes artifacts.key
    """
    for path in make_key(key, kind):
        click.echo(f"wrote {path}")
