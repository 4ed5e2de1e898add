"""The linear encoder of the training images, fitted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.seal import is_kept, keep
from synbrain_cli.model.linear import LinearEncoder, fit_ridge
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import Examples


def fit_linear_encoder(examples: Examples, run: RunContext, recovery: Path) -> LinearEncoder:
    """Fit the linear encoder to training images, or take it from the interrupted run.

    Parameters
    ----------
    examples : Examples
        Training images; validation images judge this encoder's predictions, and join the fit of
        the bundle's own (`synbrain_cli.training.distribution.fit_distribution`).
    run : RunContext
        Its seed deals the folds of the cross-validation.
    recovery : path
        Folder in which the encoder is kept.
    """
    path = recovery / "linear_training.safetensors"
    if is_kept(path, run.progress.info):
        return LinearEncoder(**load_arrays(path))
    generator = np.random.default_rng(run.seed)
    with run.progress.stage("linear encoder"):
        linear = LinearEncoder(**fit_ridge(examples.features, examples.averages, generator)[0])
    save_arrays(path, vars(linear))
    keep(path)
    return linear
