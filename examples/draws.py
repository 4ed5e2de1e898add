"""Predict the response to each example photograph, draw 20 trials, and print both by region.

Run ``make demo`` first, then ``.venv/bin/python examples/draws.py`` in the same folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from synbrain_cli import load_model
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.prepared import PreparedSubject

IMAGES = Path(__file__).parent / "images"
MODEL = Path("weights/sub-01")
REGIONS = ("V1", "V2", "V3", "hV4", "FFA-1", "EBA", "PPA")
N_DRAWS = 20


def within_image_variance(responses: np.ndarray, image_index: np.ndarray) -> np.ndarray:
    """Variance over repeats of one image, pooled over images.

    Parameters
    ----------
    responses : array of shape (n_trials, ...)
    image_index : int array of shape (n_trials,)
        0, 1, …; images seen once add nothing.

    Returns
    -------
    float64 array of shape (...)
    """
    n_trials, counts = len(responses), np.bincount(image_index)
    means = np.zeros((len(counts), *responses.shape[1:]))
    np.add.at(means, image_index, responses)
    means /= counts.reshape(-1, *[1] * (responses.ndim - 1))
    return ((responses - means[image_index]) ** 2).sum(0) / (n_trials - len(counts))


def main() -> None:
    if not (MODEL / "config.json").exists():
        sys.exit(
            f"{MODEL}: no model here: run `make demo` first, and this script in the same folder"
        )
    model = load_model(MODEL, device="cpu")
    draws = model.draw(IMAGES, n_draws=N_DRAWS, seed=0)  # (n_images, n_draws, n_voxels)
    expected = model.mean(IMAGES)  # (n_images, n_voxels): no average of draws tells it
    rois = {name: mask for name, mask in model.rois().items() if name in REGIONS}

    print(f"{'simulated ' if model.simulated else ''}subject {model.subject}, {N_DRAWS} draws")
    print("expected response of the region ± SD over draws, percent signal change\n")
    print(f"{'':10}" + "".join(f"{name:>14}" for name in rois))
    names = ImageSet.of(IMAGES).names
    for name, mean, responses in zip(names, expected, draws, strict=True):
        cells = []
        for mask in rois.values():
            sd = responses[:, mask].mean(1).std(ddof=1)  # of the region's mean
            cells.append(f"{mean[mask].mean():.2f} ± {sd:.2f}")
        print(f"{name:10}" + "".join(f"{cell:>14}" for cell in cells))

    # How far apart are recorded trials of one image? From the training images; z-scores within
    # session, returned to percent signal change with the model's own scale.
    subject = PreparedSubject(Path("prepared") / model.config.dataset / f"sub-{model.subject}")
    if not subject.folder.exists():
        return
    trials = subject.select("train")
    recorded = trials.betas * model.response_sd  # the mean does not matter to an SD
    cells = []
    for mask in rois.values():
        variance = within_image_variance(recorded[:, mask].mean(1), trials.image_index)
        cells.append(f"± {np.sqrt(variance):.2f}")
    print(f"{'recorded':10}" + "".join(f"{cell:>14}" for cell in cells))
    share = draws.var(1, ddof=1).mean(0) / within_image_variance(recorded, trials.image_index)
    print(
        "\nvariance over draws, as a share of that over recorded repeats of one image: "
        f"{np.median(share):.2g} (median over voxels)"
    )


if __name__ == "__main__":
    main()
