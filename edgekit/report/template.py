"""Fill the HTML templates in ``templates/``."""

from __future__ import annotations


def render(template: str, **values: object) -> str:
    """Return a page; every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only for reports as HTML, so imported late

    environment = Environment(
        loader=PackageLoader("edgekit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values) + "\n"
