"""Images of another dataset, shown to the subject of a model: a test outside its training range.

The responses must be comparable: those of the same subject's same voxels, in the same unit, and
images encoded by the model's own encoder. What is not so is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from synbrain_cli.brain import Brain
from synbrain_cli.brain.matching import check_bands
from synbrain_cli.errors import InputError
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.voxel_space import POSITION_COLUMNS
from synbrain_cli.io.workspace import Log, Workspace


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A prepared subject, and the tokens of its images.

    Attributes
    ----------
    subject : PreparedSubject
    store : TokenStore
    """

    subject: PreparedSubject
    store: TokenStore


def find_other(workspace: Workspace, brain: Brain, dataset: str, log: Log) -> PreparedData:
    """Find the subject of a model in another dataset, with the tokens of the model's encoder.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    dataset : str
        What ``--on`` names.
    log : callable
        Takes messages.

    Raises
    ------
    InputError, MissingError
        When it is the model's own dataset; when it is not prepared.
    """
    if dataset == brain.config.dataset:
        raise InputError(
            f"--on {dataset}: {brain.name} was trained on this dataset; without --on it is scored "
            "on its test images"
        )
    subject = workspace.find_subject(brain.subject, dataset, log)
    spec = [band.spec for band in brain.config.bands]
    return PreparedData(subject, workspace.find_tokens(dataset, spec, log))


def check_other(brain: Brain, trained: PreparedData, other: PreparedData) -> None:
    """Refuse responses that a model's predictions cannot be compared with.

    Parameters
    ----------
    brain : Brain
    trained : PreparedData
        What it was trained on.
    other : PreparedData
        What it is to be scored on.

    Raises
    ------
    InputError
        Subject, voxels, space, unit, standardisation, averaging or encoder are others; the model
        was trained on one of the images.
    """
    subject, config, folder = other.subject, brain.config, other.subject.folder
    if subject.subject != config.subject:
        raise InputError(f"{brain.name} is a model of {config.label}, not of {subject.label}")
    description = subject.description
    for what, expected, found in (
        ("voxels in the space", config.space, description.space),
        ("the standardization", config.standardization, description.standardization),
        ("responses in", brain.unit, description.unit_before_standardization),
        ("trials averaged per row:", config.averaged_over, subject.averaged_over),
    ):
        if expected != found:
            raise InputError(
                f"{folder}: expected {what} {expected}, as {brain.name} was trained, found "
                f"{found}: prepare both datasets alike"
            )
    if description.standardization == "train":
        raise InputError(
            f"{folder}: standardised by its own training trials, {brain.name} by others: prepare "
            "both datasets with --standardize session, or none, and train the model again"
        )
    _check_positions(brain, subject)
    check_bands(brain, other.store)
    _check_pictures(brain, trained, other)


def _check_positions(brain: Brain, subject: PreparedSubject) -> None:
    """Refuse voxels that are not the model's, one by one."""
    columns = [column for column in POSITION_COLUMNS if column in subject.voxels]
    if brain.n_voxels == subject.n_voxels and (
        set(columns) == {column for column in POSITION_COLUMNS if column in brain.voxels}
        and brain.voxels[columns].equals(subject.voxels[columns])
    ):
        return
    left_out = subject.description.voxels_left_out
    lacking = f" ({left_out:,} of its mask lack data in it)" if left_out else ""
    raise InputError(
        f"{subject.folder}: expected the {brain.n_voxels:,} voxels of {brain.name}, found "
        f"{subject.n_voxels:,}{lacking}, not all of them the same: prepare one dataset with the "
        f"mask of the other (--roi {subject.folder / 'mask.nii.gz'}), and train the model again "
        "if it was that one"
    )


def _check_pictures(brain: Brain, trained: PreparedData, other: PreparedData) -> None:
    """Refuse a picture that the model was trained on. Names mean other images in other datasets."""
    table = trained.subject.trials
    shown = set(table["image"][table["split"] != "test"])
    of_training = {
        digest: name
        for name, digest in zip(trained.store.images, trained.store.digests, strict=True)
        if digest and name in shown
    }
    test = set(other.subject.trials.query("split == 'test'")["image"])
    for name, digest in zip(other.store.images, other.store.digests, strict=True):
        if digest in of_training and name in test:
            raise InputError(
                f"{other.subject.folder}: the test image {name} is the picture "
                f"{of_training[digest]} of {trained.subject.label}, on which {brain.name} was "
                "trained, so that scores would be too high: prepare the dataset without it"
            )


def notes_on_other(
    brains: Sequence[Brain], trained: PreparedData, other: PreparedData
) -> Iterator[str]:
    """Yield what readers of scores on another dataset must know.

    Parameters
    ----------
    brains : sequence of Brain
        The models that are evaluated.
    trained : PreparedData
        The dataset that they were trained on.
    other : PreparedData
        That of the test images.
    """
    subject = other.subject
    for brain in brains:
        if brain.config.training.data not in (None, trained.subject.checksum):
            yield (
                f"{brain.name} was trained on another preparation of {trained.subject.folder}: "
                "that none of these pictures was trained on is known of this one alone"
            )
    if subject.description.standardization == "session":
        yield (
            f"responses are z-scored within the sessions of {subject.dataset}, as those of "
            f"{brains[0].config.dataset} within theirs: a shift or a scale that all its images "
            "have in common is not scored"
        )
    unknown = [data for data in (trained, other) if not all(data.store.digests)]
    if unknown:
        folders = " and ".join(str(data.subject.folder.parent / "features") for data in unknown)
        yield (
            f"not all images of {subject.dataset} could be compared with training images by their "
            "pixels, which tokens from a file (--tokens) and image tokens of an earlier version do "
            f"not know: of the latter, remove {folders} and run `synbrain prepare` again"
        )
