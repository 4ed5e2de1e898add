"""`synbrain submit`: predicted responses to the Algonauts challenge's test images, to be uploaded.

The format is that of the challenge's development kit: of each subject, float32 arrays
``lh_pred_test.npy`` and ``rh_pred_test.npy`` of shape (n_test_images, n_vertices), with images and
vertices in the challenge's order, zipped in a folder per subject.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.token_source import TokenFiles
from synbrain_cli.datasets.algonauts import SHORT, Challenge
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.io.voxel_space import Vertices
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.paths import require_output_file
from synbrain_cli.run import RunContext

FOLDER = "algonauts_2023_challenge_submission"  # in the archive
_TIME = (1980, 1, 1, 0, 0, 0)  # of files in the archive: the same predictions, the same bytes


@dataclass(frozen=True)
class SubmitResult:
    """A submission.

    Attributes
    ----------
    file : Path
        The archive.
    shapes : dict
        Name in the archive → (n_test_images, n_vertices).
    """

    file: Path
    shapes: dict[str, tuple[int, int]]


def submit(
    workspace: Workspace,
    challenge: Challenge,
    subjects: list[int] | None = None,
    dataset: str = "algonauts",
    output: Path | None = None,
    tokens: TokenFiles = (),
    run: RunContext | None = None,
) -> SubmitResult:
    """Predict the challenge's test images by the newest model of each subject.

    Parameters
    ----------
    workspace : Workspace
    challenge : Challenge
    subjects : list of int, optional
        Default: all in the challenge's folder.
    dataset : str
        Dataset of the models.
    output : path, optional
        File; default ``outputs/algonauts_submission.zip``.
    tokens : sequence of TokenFile, optional
        Of models of the user's own tokens: those of the test images (`load_model`).
    run : RunContext, optional

    Returns
    -------
    SubmitResult

    Raises
    ------
    MissingError, InputError
        When a subject has no test images or no model, or a model has other vertices.
    """
    # Set up
    run = run or RunContext()
    file = require_output_file(output or workspace.outputs / "algonauts_submission.zip")
    numbers = subjects or sorted(challenge.folders)
    absent = sorted(set(numbers) - set(challenge.folders))
    if absent:
        raise MissingError(
            f"{challenge.root}: no subject {absent[0]}; here are {sorted(challenge.folders)}"
        )
    bundles = {
        number: workspace.find_model(None, f"{number:02d}", run.progress.info, dataset)
        for number in numbers
    }
    images = {number: list(challenge.test_image_files(number).values()) for number in numbers}

    # Predict, and write
    shapes: dict[str, tuple[int, int]] = {}
    with (
        atomic(file) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        run.progress.bar("predicting", sum(map(len, images.values()))) as bar,
    ):
        for number in numbers:
            brain = load_model(bundles[number], str(run.device), tokens)
            spread = _Columns.of(brain, challenge, number)
            if spread.n_left_out:
                run.progress.info(
                    f"subject {number}: {spread.n_left_out:,} vertices that {brain.name} does not "
                    "model get the mean of their training responses"
                )
            predicted = np.empty((len(images[number]), brain.n_voxels), np.float32)
            stream = brain.stream(images[number], Drawing(1, sampling="mean"))
            for row, response in zip(predicted, stream, strict=True):
                row[:] = response.mean
                bar()
            for hemisphere, values in spread.split(predicted).items():
                name = f"{FOLDER}/subj{number:02d}/{SHORT[hemisphere]}_pred_test.npy"
                content = io.BytesIO()
                np.save(content, values)
                archive.writestr(
                    zipfile.ZipInfo(name, _TIME), content.getvalue(), zipfile.ZIP_DEFLATED
                )
                shapes[name] = (len(values), values.shape[1])
    return SubmitResult(file, shapes)


@dataclass(frozen=True)
class _Columns:
    """Columns of the challenge that a model's voxels are, and the values of all others.

    Attributes
    ----------
    columns : dict of int arrays
        Hemisphere → column of each of the model's vertices.
    otherwise : dict of float32 arrays
        Hemisphere → what every column has where the model has no vertex.
    """

    columns: dict[str, np.ndarray]
    otherwise: dict[str, np.ndarray]

    @classmethod
    def of(cls, brain: Brain, challenge: Challenge, subject: int) -> _Columns:
        """Find the vertices of a model among those of the challenge.

        Raises
        ------
        InputError
            When the model is of other vertices.
        """
        space, own = challenge.voxel_space(subject), brain.voxel_space.geometry
        training = challenge.responses(subject)
        columns, otherwise = {}, {}
        for h in HEMISPHERES:
            known = getattr(space, h)
            wanted = getattr(own, h) if isinstance(own, Vertices) else None
            if wanted is None or own.space != space.space or not np.isin(wanted, known).all():
                raise InputError(
                    f"{brain.folder}: expected vertices of the challenge's subject {subject} on "
                    f"{space.space}, found others: train a model on `synbrain prepare algonauts`"
                )
            columns[h] = np.searchsorted(known, wanted)
            with np.errstate(invalid="ignore", over="ignore"):
                mean = training[h].mean(0, dtype=np.float64)
            otherwise[h] = np.where(np.isfinite(mean), mean, 0).astype(np.float32)
        return cls(columns, otherwise)

    @property
    def n_left_out(self) -> int:
        """Number of vertices that the model does not have."""
        return sum(len(self.otherwise[h]) - len(self.columns[h]) for h in HEMISPHERES)

    def split(self, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Arrange predictions (n_images, n_voxels) by hemisphere, in the challenge's columns."""
        found, first = {}, 0
        for h in HEMISPHERES:
            values = np.tile(self.otherwise[h], (len(predicted), 1))
            last = first + len(self.columns[h])
            values[:, self.columns[h]] = predicted[:, first:last]
            found[h], first = values, last
        return found
