"""Evaluations on disk: the folders that `synbrain evaluate` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.results.evaluation import (
    IMAGES,
    METRICS,
    VOXELS,
    EvaluationRecord,
    evaluation_name,
    read_evaluation,
)
from synbrain_cli.io.tables import numbers, read_table, row_in
from synbrain_cli.io.workspace import Workspace


class OtherTrainingError(InputError):
    """An evaluation is of another training of the model."""


@dataclass(frozen=True)
class Evaluation:
    """A folder that `synbrain evaluate` wrote.

    Attributes
    ----------
    folder : Path
    metrics : EvaluationRecord
        ``metrics.json``.
    voxels : DataFrame
        ``voxels.tsv``: scores of each voxel.
    """

    folder: Path
    metrics: EvaluationRecord
    voxels: pd.DataFrame

    @classmethod
    def read(cls, folder: Path, brain: Brain) -> Evaluation:
        """Read an evaluation, checked to be of this model.

        Raises
        ------
        MissingError
            When the model has not been evaluated.
        InputError
            When the model has been trained again since (`OtherTrainingError`); when a file is not
            as evaluate writes it.
        """
        if not (folder / VOXELS).exists():
            raise MissingError(
                f"{folder} does not exist: run `synbrain evaluate --model {brain.name}`"
            )
        metrics = read_evaluation(folder)
        if metrics.provenance.fingerprint != brain.config.fingerprint:
            raise OtherTrainingError(
                f"{folder} is of another training of {brain.name}: run "
                f"`synbrain evaluate --model {brain.name}` again"
            )
        return cls(folder, metrics, _read_scores(folder / VOXELS, brain))

    @classmethod
    def of(cls, workspace: Workspace, brain: Brain) -> Evaluation:
        """Read the evaluation of a model in its usual folder of the workspace.

        Raises
        ------
        MissingError, InputError
            As `read`.
        """
        return cls.read(workspace.output_of(brain.name, "evaluation"), brain)

    @property
    def has_images(self) -> bool:
        """Whether there are scores of each image: not where images were held out by turns."""
        return (self.folder / IMAGES).exists()

    def images(self) -> pd.DataFrame:
        """Read ``images.tsv``: scores and distance of each image; NaN where a cell is empty.

        Raises
        ------
        MissingError, InputError
            When it is no such table.
        """
        path = self.folder / IMAGES
        again = f"run `synbrain evaluate --model {self.metrics.model}` again"
        table = read_table(path, ("image", "leverage", "pattern_r"), again=again)
        for column in table.columns.drop("image"):
            table[column] = numbers(table[column], row_in(path))
        return table

    def knows(self, what: str) -> bool:
        """Return whether the "accuracy" or the noise "ceiling" of any voxel is known."""
        column = {"accuracy": "model", "ceiling": "ceiling"}[what]
        return bool(self.voxels[column].notna().any())


def find_on_others(workspace: Workspace, brain: Brain) -> list[tuple[str, Path]]:
    """Return the datasets other than its own that a model was scored on, and where scores are.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    """
    usual = workspace.output_of(brain.name, evaluation_name("*")).name
    before, _, after = usual.partition("*")
    found = []
    if workspace.outputs.is_dir():
        for folder in sorted(workspace.outputs.iterdir()):
            name = folder.name
            if name.startswith(before) and name.endswith(after) and (folder / METRICS).exists():
                found.append((name[len(before) : -len(after)], folder))
    return found


def _read_scores(path: Path, brain: Brain) -> pd.DataFrame:
    """Read the scores of each voxel: numbers, NaN where a cell is empty; ``hemisphere`` is text.

    Raises
    ------
    MissingError, InputError
        When it is no such table of this model's voxels.
    """
    advice = f"run `synbrain evaluate --model {brain.name}` again"
    table = read_table(path, ("model", "linear", "ceiling"), again=advice)
    if len(table) != brain.n_voxels:
        raise InputError(
            f"{path}: expected scores of {brain.n_voxels:,} voxels, found {len(table):,} rows: "
            f"{advice}"
        )
    for column in table.columns.drop("hemisphere", errors="ignore"):
        table[column] = numbers(table[column], row_in(path))
    return table
