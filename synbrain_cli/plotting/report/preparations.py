"""Section of the report on versions of the betas: what each says of noise."""

from __future__ import annotations

from synbrain_cli.brain import Brain
from synbrain_cli.errors import SynbrainError
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.report.page import Section, Table
from synbrain_cli.plotting.sources.preparations import (
    noise_rows,
    noise_table,
    other_preparations,
    preparation_of,
)

_TITLE = "Versions of the betas"


def preparations_section(workspace: Workspace, brain: Brain) -> Section:
    """Return ncsnr of the model's subject beside that of other versions of its betas.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain

    Returns
    -------
    Section
        Without blocks where the workspace has one version.
    """
    config = brain.config
    try:
        subject = workspace.find_subject(config.subject, config.dataset, _unheard)
        others = other_preparations(workspace, subject)
    except SynbrainError:
        return Section(_TITLE, "", [])
    if not others:
        return Section(_TITLE, "", [])
    versions = [subject, *others]
    names = [preparation_of(one) or one.dataset for one in versions]
    table = noise_table(versions)
    if table.empty:
        return Section(_TITLE, "", [])
    return Section(
        _TITLE,
        f"This model was trained on {names[0]}.",
        [
            Table(
                "Noise ceiling signal-to-noise ratio (ncsnr) of single trials, by version",
                ["region (voxels)", *names],
                noise_rows(table, names),
                "Median over voxels, quartiles in brackets, computed from the repeats of each "
                "version in the same way, over the voxels that all versions have. Ridge regression "
                "across trials couples the repeats of an image: of versions that have it, this "
                "ratio is not that of independent trials.",
            )
        ],
    )


def _unheard(message: str) -> None:
    """Take a message about a choice that nobody has to hear of."""
