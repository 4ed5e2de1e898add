"""Settings of `synbrain evaluate`, and the least number of draws of any evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from synbrain_cli.errors import InputError

N_DRAWS, MIN_DRAWS = 200, 20


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of an evaluation.

    Attributes
    ----------
    n_draws : int
        Draws per image from which distributions are scored.
    latent : bool
        Also score the published sampling: 80 passes of the decoder per image.
    n_boot : int
        Bootstrap draws of the test images for the 95 % confidence intervals.
    n_folds : int, optional
        Score every image when it was held out, by refits of the model's recipe on the other folds
        of images (`synbrain_cli.evaluation.folds`); default: the model itself, on the test images.
    two_sample : bool
        Also train classifiers to tell recorded trials from drawn ones
        (`synbrain_cli.evaluation.two_sample`).
    on : str, optional
        Another dataset, on whose test images the model is scored
        (`synbrain_cli.evaluation.other_dataset`); default: its own.

    Raises
    ------
    InputError
        With folds on another dataset.
    """

    n_draws: int = N_DRAWS
    latent: bool = True
    n_boot: int = 1000
    n_folds: int | None = None
    two_sample: bool = False
    on: str | None = None

    def __post_init__(self) -> None:
        if self.on is not None and self.n_folds is not None:
            raise InputError(
                "--folds and --on: folds are of the images that the model was trained on, which "
                "are not those of another dataset: leave one of them out"
            )


def check_draws(n_draws: int, otherwise: str = "") -> None:
    """Refuse so few draws that 90 % intervals would reach beyond them.

    Parameters
    ----------
    n_draws : int
    otherwise : str
        What else may be asked for, for the message: ", or 0 to leave coverage out".

    Raises
    ------
    InputError
    """
    if n_draws < MIN_DRAWS:
        raise InputError(
            f"--draws {n_draws}: expected {MIN_DRAWS} or more{otherwise}: 90 % intervals of fewer "
            "draws would reach beyond them"
        )
