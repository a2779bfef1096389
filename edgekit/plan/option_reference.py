"""The reference of all options as Markdown: ``python -m edgekit.plan.option_reference > docs/options.md``."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.plan.option_declaration import Declaration, declarations, parts
from edgekit.plan.options import ConversionOptions

HEAD = """# Options

The options of `edgekit convert`. The other commands take some of them: `edgekit COMMAND --help` lists which.

| where | how an option is written |
|---|---|
| command line | `--max-drop 0.01`; `--no-cache` for an option that is on by default |
| plan file (`--plan FILE.toml`) | `max_drop = 0.01`, at the top or in the table of its section below |
| Python | `edgekit.convert("model.keras", max_drop=0.01)` |

The command line takes precedence over the plan file. Paths in a plan file are relative to its folder. An option that
can be repeated is a list in a plan file and in Python. Older names still work and are in parentheses. This page is
generated: `python -m edgekit.plan.option_reference > docs/options.md`.
"""


def reference() -> str:
    """Return the page."""
    return "\n".join([HEAD, *_lines()])


def _lines() -> Iterator[str]:
    for table, part in parts(ConversionOptions).items():
        yield f"## `[{table}]`\n\n{part.__doc__}\n"
        yield "| option | accepts | |\n|---|---|---|"
        yield from map(_row, declarations(part))
        yield ""


def _row(option: Declaration) -> str:
    aliases = f" ({', '.join(f'`{name}`' for name in option.metadata.aliases)})" if option.metadata.aliases else ""
    text = f"{option.metadata.help.replace('|', chr(92) + '|')}"
    if option.metadata.negative:
        text = f"On by default; `--no-{option.flag[2:]}`: {text[0].lower()}{text[1:]}"
    return f"| `{option.name}`{aliases} | {option.accepts.replace('|', chr(92) + '|')} | {text} |"


if __name__ == "__main__":
    print(reference(), end="")
