"""The linear encoder of a subject's images, fitted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.seal import is_kept, keep
from synbrain_cli.model.linear import LinearEncoder, fit_linear
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import SubjectExamples


def fit_linear_encoder(
    examples: SubjectExamples, run: RunContext, recovery: Path
) -> tuple[LinearEncoder, np.ndarray]:
    """Fit the linear encoder to all images, or take it from the interrupted run.

    Parameters
    ----------
    examples : SubjectExamples
        Images of training and validation.
    run : RunContext
        Its seed deals the folds of the cross-validation.
    recovery : path
        Folder in which the encoder is kept.

    Returns
    -------
    LinearEncoder
    float32 array of shape (n_train_images + n_val_images, n_voxels)
        Predictions of every image without it.
    """
    path = recovery / "linear.safetensors"
    if is_kept(path, run.progress.info):
        named = load_arrays(path)
        left_out = named.pop("left_out")
        return LinearEncoder.from_arrays(named, len(examples.both.tokens.bands)), left_out
    generator = np.random.default_rng([run.seed, 1])
    both = examples.both
    with run.progress.stage("linear encoder") as share:
        linear, left_out = fit_linear(both.tokens, both.averages, generator, share, examples.groups)
    save_arrays(path, linear.arrays() | {"left_out": left_out})
    keep(path)
    return linear, left_out
