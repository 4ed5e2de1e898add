"""The guard of test images against training images: none of them may have been trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore


def check_untrained(subject: PreparedSubject, store: TokenStore) -> None:
    """Refuse a prepared subject that has a test image among its training or validation images.

    Images are compared by name and, where the token store knows their pixels, by these.

    Raises
    ------
    InputError
        The message names an image.
    """
    table = subject.trials
    is_test = (table["split"] == "test").to_numpy()
    test = set(table["image"][is_test])
    trained = set(table["image"][~is_test])
    pixels = {name: d for name, d in zip(store.images, store.digests, strict=True) if d}
    trained_pixels = {pixels[name]: name for name in trained if name in pixels}
    for image in sorted(test):
        twin = image if image in trained else trained_pixels.get(pixels.get(image, ""))
        if twin is not None:
            same = "" if twin == image else f" (the same picture as {twin})"
            raise InputError(
                f"{subject.folder}: the test image {image}{same} is among the images that models "
                "are trained on, so that scores would be too high: prepare the subject again "
                "with splits by picture, and train the model again"
            )


def leakage_notes(brains: Sequence[Brain], subject: PreparedSubject) -> Iterator[str]:
    """Yield what makes it uncertain that models have not seen the test images.

    Parameters
    ----------
    brains : sequence of Brain
        The models that are evaluated.
    subject : PreparedSubject
        Their subject.
    """
    data = subject.checksum
    for brain in brains:
        training = brain.config.training
        if training.data not in (None, data):
            yield (
                f"{brain.name} was trained on another preparation of {subject.folder}: if its "
                "splits were others, it may have seen these test images"
            )
        for label in training.adaptation.subjects if training.adaptation else ():
            try:
                n_shown = _count_trained(subject, label)
            except SynbrainError as error:
                yield (
                    f"{brain.name} was adapted from models of {label}; whether these were trained "
                    f"on responses to these test images is not known ({error})"
                )
                continue
            if n_shown:
                yield (
                    f"{brain.name} was adapted from models of {label}, which were trained on "
                    f"responses of that subject to {n_shown} of these test images"
                )


def _count_trained(subject: PreparedSubject, label: str) -> int:
    """Test images of a subject that are training images of another one of the same dataset.

    0 where the other is not prepared here, or of another dataset: names then mean other images.
    """
    folder = subject.folder.parents[1] / label
    if label.split("/")[0] != subject.dataset or not (folder / "trials.tsv").exists():
        return 0
    own, other = subject.trials, PreparedSubject(folder).trials
    test = set(own["image"][own["split"] == "test"])
    return len(test & set(other["image"][other["split"] != "test"]))
