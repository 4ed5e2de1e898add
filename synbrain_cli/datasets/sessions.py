"""Processing of the sessions of a subject that is common to all readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.config import trials_name
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.metrics.noise_ceiling import ncsnr_of_stream

AGREEING = 0.8  # correlation over voxels below which estimates of ncsnr count as different (ours)


def in_parallel(
    work: Callable[[int], None],
    sessions: Iterable[int],
    done: Collection[int],
    workers: int | None,
    progress: Callable[[int, int], None],
) -> None:
    """Process the remaining sessions in threads. After an error no further session is begun.

    Parameters
    ----------
    work : callable
        Function of a session, which runs in a thread. Decompression and numpy release the lock of
        the interpreter.
    sessions : iterable of int
    done : collection of int
        Sessions that an interrupted run has finished.
    workers : int, optional
        Number of threads; by default the number of cores.
    progress : callable
        Called with the number of finished sessions and the number of all sessions.
    """
    sessions = list(sessions)
    left = [session for session in sessions if session not in done]
    n_done = len(sessions) - len(left)
    progress(n_done, len(sessions))
    with ThreadPoolExecutor(workers or n_cores()) as pool:
        waiting = {pool.submit(work, session) for session in left}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=1.0, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                n_done += len(finished)
                progress(n_done, len(sessions))
        except BaseException:
            for future in waiting:
                future.cancel()
            raise


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def add_ncsnr(
    voxels: pd.DataFrame, writer: PreparedWriter, averaged_over: int = 1
) -> tuple[pd.DataFrame, dict[str, float | None]]:
    """Compute ncsnr from repeats, and compare it with the ncsnr that was supplied with the data.

    As NSD defines it, ncsnr is computed from betas that are z-scored within session, independent
    of the chosen standardisation. All trials are used, including test trials, because ncsnr limits
    scores and is not used for training.

    Parameters
    ----------
    voxels : DataFrame
        Table of the voxels, with the column ``ncsnr`` where it was supplied.
    writer : PreparedWriter
        Writer that has written all sessions.
    averaged_over : int
        Trials that each row is the average of. ncsnr is that of single trials all the same: the
        noise variance of a single trial is this many times that of a row.

    Returns
    -------
    voxels : DataFrame
        With the columns ``ncsnr`` (supplied, else computed) and ``ncsnr_recomputed``.
    found : dict
        ``median_given``, ``median_recomputed``, and ``correlation`` of the two over voxels; None
        where unknown.
    """
    recomputed = np.full(writer.n_voxels, np.nan)
    if writer.trials["image"].duplicated().any() and writer.trials["image"].nunique() > 1:
        of_rows = ncsnr_of_stream(writer.read_standardized, writer.trials["image"].to_numpy(str))
        recomputed = of_rows / np.sqrt(averaged_over)
    given = np.full(writer.n_voxels, np.nan)
    if "ncsnr" in voxels:
        given = voxels["ncsnr"].to_numpy(float)
    usable = writer.usable()
    both = usable & np.isfinite(given) & np.isfinite(recomputed)
    r = None
    if both.sum() > 2 and np.ptp(given[both]) > 0 and np.ptp(recomputed[both]) > 0:
        r = round(float(np.corrcoef(given[both], recomputed[both])[0, 1]), 4)
    found = {
        "median_given": _median(given[usable]),
        "median_recomputed": _median(recomputed[usable]),
        "correlation": r,
    }
    columns: dict[str, Any] = {
        "ncsnr": recomputed if found["median_given"] is None else given,
        "ncsnr_recomputed": recomputed,
    }
    rest = voxels.drop(columns="ncsnr", errors="ignore")
    return pd.concat([pd.DataFrame(columns, index=rest.index), rest], axis=1), found


def _median(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return round(float(np.median(values)), 4) if len(values) else None


def describe_ncsnr(found: dict[str, float | None], averaged_over: int = 1) -> str:
    """Describe the reliability in one line, with a warning where the two estimates disagree.

    Parameters
    ----------
    found : dict
        From `add_ncsnr`.
    averaged_over : int
        Trials that each row is the average of.
    """
    given, recomputed, r = found["median_given"], found["median_recomputed"], found["correlation"]
    if averaged_over > 1 and recomputed is None:
        rows = f"rows are {trials_name(averaged_over)}, one of each image"
        if given is None:
            return f"{rows}: ncsnr and noise ceilings are unknown (--voxels)"
        return f"{rows}; median ncsnr of single trials {given:.2f} in the file"
    if recomputed is None and given is None:
        return "no image was repeated: ncsnr and noise ceilings are unknown"
    if recomputed is None:
        return f"median ncsnr {given:.2f} in the file; no image was repeated to compare it with"
    if given is None:
        return f"median ncsnr {recomputed:.2f}, from the repeats"
    line = f"median ncsnr {given:.2f} in the file, {recomputed:.2f} from the repeats"
    if r is not None:
        line += f" (r {r:.2f} over voxels)"
        if r < AGREEING:
            line += (
                ": WARNING, they disagree: are design, betas and ncsnr of the same subject and "
                "preparation?"
            )
    return line
