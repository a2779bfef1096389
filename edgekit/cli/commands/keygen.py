"""``edgekit keygen``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.bundle.signing import TYPES, make_key


@click.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "kind",
    type=click.Choice(TYPES),
    default="p256",
    show_default=True,
    help="p256, which model_signing reads too, and ed25519 sign; aes encrypts.",
)
def command(key: Path, kind: str) -> None:
    """Make a key: KEY.pem, which signs and is kept secret, and beside it KEY.pub.pem for those who verify.

    With $EDGEKIT_KEY_PASSWORD set, the secret one is encrypted with that password.

    \b
    Examples:
      edgekit keygen release.pem
      edgekit keygen --type ed25519 release.pem
      edgekit keygen --type aes artifacts.key
    """
    for path in make_key(key, kind):
        click.echo(f"wrote {path}")
