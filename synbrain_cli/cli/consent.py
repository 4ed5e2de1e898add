"""Questions on the terminal before data are downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from synbrain_cli.cli.tables import print_columns

if TYPE_CHECKING:
    import pandas as pd


class TerminalConsent:
    """Asks on the terminal before data are downloaded, unless the command accepted it.

    Parameters
    ----------
    accepted : bool
    fewer : str
        Options by which less is downloaded, for messages.
    """

    def __init__(self, accepted: bool, fewer: str = "--subject and --sessions choose less") -> None:
        self.accepted, self.fewer = accepted, fewer

    def terms(self, terms: str, form: str) -> None:
        """Ask whether NSD's terms were accepted and its form was filled in.

        Raises
        ------
        InputError
            They were not.
        """
        from synbrain_cli.errors import InputError

        if self.accepted:
            return
        how = (
            f"NSD may be used once you have accepted its terms ({terms}) and filled in its access "
            f"form ({form}); neither data nor images may be passed on"
        )
        if not sys.stdin.isatty():
            raise InputError(f"{how}: pass --accept-terms if you have")
        if not typer.confirm(f"{how}.\nHave you done both?", err=True):
            raise InputError("NSD's terms were not accepted: nothing was downloaded")

    def fetch(self, table: pd.DataFrame, root: Path) -> None:
        """Show what will be downloaded, and ask on a terminal.

        Raises
        ------
        InputError
            The user refused.
        """
        from synbrain_cli.errors import InputError

        rows = [tuple(table.columns)]
        for what, files, size, left in table.itertuples(index=False):
            rows.append((what, f"{files:,}", f"{size:,.2f}", f"{left:,.2f}"))
        print_columns(rows, n_left=1, file=sys.stderr)
        if self.accepted or not sys.stdin.isatty():
            return
        if not typer.confirm(f"Download into {root}?", default=True, err=True):
            raise InputError(f"nothing was downloaded; {self.fewer}")
