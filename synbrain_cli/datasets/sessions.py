"""What every reader does with the sessions of a subject."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.metrics.noise_ceiling import ncsnr_of_stream

AGREEING = 0.8  # correlation over voxels below which two estimates of ncsnr are said to disagree


def in_parallel(
    work: Callable[[int], None],
    sessions: Iterable[int],
    done: Collection[int],
    workers: int | None,
    progress: Callable[[int, int], None],
) -> None:
    """Do ``work`` for each session not done, some at once; a fault stops those not yet begun.

    Parameters
    ----------
    work : callable
        Told the session; run in threads (decompression and numpy release the interpreter).
    sessions : iterable of int
    done : collection of int
        Sessions that an interrupted run finished.
    workers : int, optional
        Default: as many as there are cores.
    progress : callable
        Told sessions done and their number.
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
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def add_ncsnr(
    voxels: pd.DataFrame, writer: PreparedWriter
) -> tuple[pd.DataFrame, dict[str, float | None]]:
    """Compute ncsnr from the repeats, beside the one that came with the data.

    Of betas z-scored within session, whatever the standardisation, as NSD defines it; over all
    trials, test trials included: it bounds scores and trains nothing.

    Parameters
    ----------
    voxels : DataFrame
        Perhaps with ``ncsnr``.
    writer : PreparedWriter
        With all its sessions written.

    Returns
    -------
    voxels : DataFrame
        With ``ncsnr`` (the one computed, where none was given) and ``ncsnr_recomputed``.
    found : dict
        ``median_given``, ``median_recomputed``, and ``correlation`` of the two over voxels; None
        where unknown.
    """
    recomputed = np.full(writer.n_voxels, np.nan)
    if writer.trials["image"].duplicated().any() and writer.trials["image"].nunique() > 1:
        recomputed = ncsnr_of_stream(writer.read_standardized, writer.trials["image"].to_numpy(str))
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


def describe_ncsnr(found: dict[str, float | None]) -> str:
    """One line on the reliability found, with a warning where the two estimates disagree."""
    given, recomputed, r = found["median_given"], found["median_recomputed"], found["correlation"]
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
