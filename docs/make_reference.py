"""Write docs/cli-reference.md from the help of every command.

Run as ``.venv/bin/python docs/make_reference.py`` after a change to a command;
``tests/test_docs.py`` fails until that is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from synbrain_cli.cli import app

PAGE = Path(__file__).with_name("cli-reference.md")
WIDTH = "88"  # columns

HEAD = """# Command reference

The help of every command, as `--help` prints it. This page is generated: after a change to a
command, run `.venv/bin/python docs/make_reference.py`.

Every command works in a workspace: a folder with `prepared/`, `weights/` and `outputs/`, by
default the current one. The files are described in [file-format.md](file-format.md). After an
interruption the same command goes on where it stopped. Exit codes: 0 done; 1 a fault that you can
mend, named in one line on stderr; 2 a mistake in the command line; 130 interrupted.
`synbrain --install-completion` sets up completion in your shell: it completes commands, options,
choices, and the names of models, subjects and datasets.
"""


def commands(group: Any = None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Name of every command and group of commands, the program itself first."""
    group = group or get_command(app)
    yield prefix
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name)


def help_of(command: tuple[str, ...]) -> str:
    """What ``synbrain COMMAND --help`` prints on a terminal of `WIDTH` columns."""
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": WIDTH})
    if result.exit_code:
        raise RuntimeError(f"synbrain {' '.join(command)} --help: {result.output}")
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def made_with() -> str:
    """The line that names the version of typer: another lays out the same help differently."""
    return f"Laid out by typer {version('typer')}."


def reference() -> str:
    """The whole page."""
    parts = [HEAD, made_with() + "\n"]
    for command in commands():
        title = " ".join(("synbrain", *command))
        parts.append(f"## {title}\n\n```text\n{help_of(command)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), "utf-8")
    print(PAGE)
