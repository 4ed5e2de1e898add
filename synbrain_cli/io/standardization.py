"""Moments of the responses of a session, z-scores by them, and responses that are impossible."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from synbrain_cli.errors import InputError

# A value is impossible if it is IMPOSSIBLE times as far from the median of its voxel as the
# typical trial of that session (ours). float32 has 24 bits: beside such a value, once the voxel is
# z-scored, less than one bit is left for the differences between other trials. Values of
# heavy-tailed noise, at most some thousand times as far, are kept.
IMPOSSIBLE = 2.0**23


def moments_of(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over trials, in bounded memory.

    Parameters
    ----------
    betas : float32 array of shape (n_trials, n_voxels)

    Returns
    -------
    float64 arrays of shape (n_voxels,)
        The standard deviation of a constant voxel is 0.
    """
    mean, sd = np.empty(betas.shape[1]), np.empty(betas.shape[1])
    for some in _columns(betas):
        mean[some] = betas[:, some].mean(0, dtype=np.float64)
        sd[some] = betas[:, some].std(0, dtype=np.float64)
        # Rounding may leave a constant voxel with a standard deviation above 0.
        sd[some][np.ptp(betas[:, some], axis=0) == 0] = 0
    return mean, sd


class RunningMoments:
    """Mean and standard deviation of trials that come in blocks (Chan et al. 1979).

    Of a single block they are those of `moments_of`.

    Attributes
    ----------
    n : int
        Trials so far.
    mean, sd : float64 arrays of shape (n_voxels,)
        The standard deviation of a constant voxel is 0.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean = self.sd = self._low = self._high = np.empty(0)

    def add(self, betas: np.ndarray) -> None:
        """Add trials: float32 (n_trials, n_voxels), at least one."""
        mean, sd = moments_of(betas)
        low, high = betas.min(0), betas.max(0)
        if self.n:
            parts = [
                {"n_train": np.array(n), "train_mean": m, "train_sd": s}
                for n, m, s in ((self.n, self.mean, self.sd), (len(betas), mean, sd))
            ]
            mean, sd = pool(parts)
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
            sd[low == high] = 0
        self.n += len(betas)
        self.mean, self.sd, self._low, self._high = mean, sd, low, high


def z_score(betas: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return z-scores, computed in float64; 0 where the standard deviation is 0.

    Parameters
    ----------
    betas : float32 array of shape (n_trials, n_voxels)
    mean, sd : float64 arrays of shape (n_voxels,)

    Returns
    -------
    float32 array of shape (n_trials, n_voxels)
    """
    out = np.zeros_like(betas)
    usable = np.isfinite(sd) & (sd > 0)
    for some in _columns(betas):
        z = (betas[:, some] - mean[some]) / np.where(usable[some], sd[some], 1)
        out[:, some] = np.where(usable[some], z, 0)
    return out


def _columns(betas: np.ndarray) -> Iterator[slice]:
    """Yield slices of voxels, each of a size that a float64 copy takes 8 MB."""
    step = max(1, (1 << 20) // len(betas))
    for start in range(0, betas.shape[1], step):
        yield slice(start, start + step)


def pool(parts: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of the training trials of all sessions together (Chan et al. 1979).

    Parameters
    ----------
    parts : list of dict
        Of each session with training trials: ``n_train``, ``train_mean`` and ``train_sd``.

    Raises
    ------
    InputError
        When there is none.
    """
    if not parts:
        raise InputError(
            "expected training trials for the mean and the standard deviation, found none: check "
            "the splits"
        )
    n = np.array([float(part["n_train"]) for part in parts])[:, None]
    means = np.stack([part["train_mean"] for part in parts])
    variances = np.stack([part["train_sd"] for part in parts]) ** 2
    with np.errstate(invalid="ignore", over="ignore"):  # unusable voxels are left out later
        mean = (n * means).sum(0) / n.sum()
        return mean, np.sqrt((n * (variances + (means - mean) ** 2)).sum(0) / n.sum())


def check_trials(betas: np.ndarray, first: int, source: str) -> None:
    """Raise an `InputError` for trials without values, which would make all voxels unusable."""
    empty = np.flatnonzero(~np.isfinite(betas).any(1))
    if len(empty) and np.isfinite(betas).any():
        raise InputError(
            f"{source}: {len(empty)} trials have no finite value (first: trial {first + empty[0]}, "
            "counted from 0): leave those trials out of the table and of the responses"
        )


def check_magnitudes(betas: np.ndarray, trials: np.ndarray, source: str, session: int) -> None:
    """Raise an `InputError` for a value that is `IMPOSSIBLE` beside the rest of its voxel.

    The typical distance from the median is first estimated from some trials, and computed for the
    voxels that may be at fault. It is the median of distances other than 0, because counts are
    0 in most trials. Voxels that are not finite are left out later, and not looked at.
    """
    some = betas[:: max(1, len(betas) // 64)]
    with np.errstate(all="ignore"):
        for span in _columns(betas):
            typical = np.median(np.abs(some[:, span] - np.median(some[:, span], axis=0)), axis=0)
            reach = np.ptp(betas[:, span], axis=0)
            suspects = np.flatnonzero(np.isfinite(reach) & (reach > IMPOSSIBLE / 4 * typical))
            values = betas[:, suspects + span.start].astype(np.float64)
            distance = np.abs(values - np.median(values, axis=0))
            least = np.where(distance > 0, distance, np.inf).min(0, initial=np.inf)
            for column in np.flatnonzero(distance.max(0, initial=0) > IMPOSSIBLE * least):
                far = distance[:, column]
                usual = np.median(far[far > 0])
                if far.max() <= IMPOSSIBLE * usual:
                    continue
                trial, voxel = far.argmax(), suspects[column] + span.start
                raise InputError(
                    f"{source}: the value {values[trial, column]:.3g} of trial {trials[trial]} and "
                    f"voxel {voxel} (counted from 0) in session {session} is impossible beside the "
                    f"other trials, which differ by {usual:.3g} from the voxel's median: set it to "
                    "NaN, so that the voxel is left out, or leave the trial out of the table and "
                    "of the responses"
                )
