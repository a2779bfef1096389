"""``edgekit devices``."""

from __future__ import annotations

import json

import click

from edgekit.plan.profiles import load_profile, profile_names


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the complete profiles as JSON.")
def command(as_json: bool) -> None:
    """List the device profiles: their engines, and whether they were verified on hardware."""
    profiles = [load_profile(name) for name in profile_names()]
    if as_json:
        click.echo(json.dumps([profile.to_dict() for profile in profiles], indent=2))
        return
    for profile in profiles:
        click.echo(
            f"{profile.name:<18} {profile.arch:<8} {', '.join(profile.targets):<28} "
            f"verified: {profile.verified:<9} {profile.title}"
        )
