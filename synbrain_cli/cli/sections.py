"""Groups of commands in plain text: the program's own in the order in which people use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from typer.core import TyperGroup

SECTIONS = {
    "Start": ("demo",),
    "Data and models": ("prepare", "train", "adapt"),
    "Responses": ("synthesize", "submit", "plot", "plot-flatmap"),
    "Evaluation": ("evaluate", "compare", "learning-curve", "augment"),
    "Experiments": ("contrast", "select", "localize"),
    "Bundles": ("weights",),
}


class PlainGroup(TyperGroup):
    """Group of commands whose help gives their first sentences whole, on as many lines as needed.

    Typer's own plain-text help cuts them at the end of the line.
    """

    def sections(self) -> Mapping[str, Iterable[str]]:
        """Headings, and the names of the commands below each."""
        return {"Commands": self.commands}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections, their second columns at the same place."""
        width = max(map(len, self.commands))
        for heading, names in self.sections().items():
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (name.ljust(width), self.commands[name].get_short_help_str(limit=200))
                        for name in names
                    ]
                )


class ProgramGroup(PlainGroup):
    """The program: its commands in the sections and the order of `SECTIONS`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Typer itself lists all commands first, then all groups of commands.
        names = [name for section in SECTIONS.values() for name in section]
        self.commands = {name: self.commands[name] for name in names}

    def sections(self) -> Mapping[str, Iterable[str]]:
        """Headings, and the names of the commands below each."""
        return SECTIONS
