"""Reading NSD's betas: one real-size session, and a whole subject, against their decompression.

    python benchmarks/betas.py [FOLDER]

Makes sessions of NSD's size (81 × 104 × 83 voxels × 750 trials, int16, gzip; some 700 MB each) in
FOLDER (default: a temporary one; 6 GB), then measures, each in a process of its own:

- isal: decompressing one session, nothing else;
- ours: reading it, keeping 15,724 voxels, standardising and writing them;
- nibabel: ``get_fdata`` and the mask;
- subjects of 2 and 8 sessions through `prepare_subject`, on all cores.

The betas are made up: noise of subject 1's order of magnitude within a head-shaped mask, little
around it, so that they compress no better than real ones do.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import scipy.io
from common import Timer, measured, report, save
from isal import igzip

from synbrain_cli.datasets.nsd import prepare_subject
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_files import DESIGN, NSD
from synbrain_cli.io.betas import read_masked
from synbrain_cli.io.prepared_writer import PreparedWriter

SHAPE, N_TRIALS, N_VOXELS, N_SESSIONS = (81, 104, 83), 750, 15_724, 8
REPEATS = 3


def make_tree(root: Path) -> None:
    """An NSD folder of one subject; sessions that are there already stay."""
    i, j, k = np.indices(SHAPE)
    centre = np.array(SHAPE) / 2
    radius = sum(((x - c) / (0.93 * c)) ** 2 for x, c in zip((i, j, k), centre, strict=True))
    head = radius < 0.62
    # The mask: the back of the head, as nsdgeneral is.
    behind = np.flatnonzero((head & (j < 40)).ravel())
    chosen = behind[np.linspace(0, len(behind) - 1, N_VOXELS).astype(int)]
    mask = np.zeros(SHAPE, np.int16)
    mask.ravel()[chosen] = 1
    affine = np.diag([1.8, 1.8, 1.8, 1.0])
    roi = root / "nsddata/ppdata/subj01/func1pt8mm/roi"
    roi.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask, affine), roi / "nsdgeneral.nii.gz")
    generator = np.random.default_rng(0)
    design = root / DESIGN
    design.parent.mkdir(parents=True, exist_ok=True)
    n_images = N_SESSIONS * N_TRIALS // 3
    order = generator.permutation(np.repeat(np.arange(n_images), 3)) + 1
    scipy.io.savemat(
        design,
        {
            "masterordering": order[None].astype(np.uint16),
            "subjectim": np.arange(1, n_images + 1, dtype=np.int32)[None].repeat(8, axis=0),
            "sharedix": np.arange(1, 201, dtype=np.int32)[None],
            "stimpattern": np.zeros((N_SESSIONS, 12, 75), np.uint8),
        },
        appendmat=False,
    )
    inside = np.flatnonzero(head.ravel(order="F"))
    around = np.flatnonzero(((radius >= 0.62) & (radius < 2.2)).ravel(order="F"))
    spread = 600 * np.exp(generator.normal(0, 0.5, len(inside))).astype(np.float32)
    folder = root / NSD_BETAS
    folder.mkdir(parents=True, exist_ok=True)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((*SHAPE, N_TRIALS))
    header.set_sform(affine, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    frame = np.zeros(np.prod(SHAPE), np.int16)
    for session in range(1, N_SESSIONS + 1):
        path = folder / f"betas_session{session:02d}.nii.gz"
        if path.exists():
            continue
        generator = np.random.default_rng(session)
        partial = path.with_suffix(".partial")
        with igzip.open(partial, "wb", compresslevel=1) as file:
            file.write(header.binaryblock + bytes(4))
            for _ in range(N_TRIALS):
                values = spread * generator.standard_normal(len(inside), np.float32)
                frame[inside] = values.clip(-32768, 32767)
                frame[around] = 40 * generator.standard_normal(len(around), np.float32)
                file.write(frame.tobytes())
        partial.replace(path)


NSD_BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"


def step(what: str, root: Path, *rest: str) -> None:
    """One measurement, in its own process."""
    path = root / NSD_BETAS / "betas_session01.nii.gz"
    if what == "isal":
        with Timer() as timer, igzip.open(path) as file:
            while file.read(1 << 20):
                pass
        return report(timer.seconds)
    mask = np.asarray(nib.load(next(root.rglob("nsdgeneral.nii.gz"))).dataobj) > 0
    if what == "nibabel":
        with Timer() as timer:
            nib.load(path).get_fdata()[mask].T.copy()
        return report(timer.seconds)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        target = Path(folder) / "sub-01"
        if what == "ours":
            nsd = NSD(root)
            shown = nsd.design.shown(1, [1])
            trials = nsd.design.trials(1, [1], np.full(len(shown), "train"))
            with Timer() as timer:
                writer = PreparedWriter(target, {}, trials, int(mask.sum()))
                betas = read_masked(path, mask).astype(np.float32)
                betas /= np.float32(300)
                writer.write_session(1, betas)
            return report(timer.seconds)
        n_sessions = int(rest[0])
        with Timer() as timer:
            prepare_subject(
                NSD(root), 1, target, choice=Choice(), sessions=list(range(1, n_sessions + 1))
            )
    return report(timer.seconds)


def main() -> None:
    if len(sys.argv) > 2:
        return step(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    own = len(sys.argv) == 2
    root = Path(sys.argv[1] if own else tempfile.mkdtemp())
    try:
        make_tree(root)
        runs: dict[str, list[dict[str, float]]] = {}
        for _ in range(REPEATS):  # in turn: what else the machine does falls on all of them
            for what in ("isal", "ours"):
                runs.setdefault(what, []).append(measured(__file__, what, root))
        runs["nibabel"] = [measured(__file__, "nibabel", root)]
        for n in (2, N_SESSIONS):
            runs[f"{n} sessions"] = [measured(__file__, "subject", root, n) for _ in range(REPEATS)]
        best = {what: min(run["seconds"] for run in some) for what, some in runs.items()}
        peak = {what: max(run["peak_megabytes"] for run in some) for what, some in runs.items()}
        subject = best[f"{N_SESSIONS} sessions"]
        size = (root / NSD_BETAS / "betas_session01.nii.gz").stat().st_size
        result = {
            "session_file_megabytes": round(size / 1e6),
            "seconds": best,
            "peak_megabytes": peak,
            "ratios": {
                "ours / isal": best["ours"] / best["isal"],
                "nibabel get_fdata / isal": best["nibabel"] / best["isal"],
                f"{N_SESSIONS} sessions / ({N_SESSIONS} × ours / 2)": subject
                / (N_SESSIONS * best["ours"] / 2),
                f"peak memory, {N_SESSIONS} sessions / 2 sessions": peak[f"{N_SESSIONS} sessions"]
                / peak["2 sessions"],
            },
            "runs": runs,
        }
        path = save("betas", "python benchmarks/betas.py", result)
        print(path)
        print({k: round(v, 3) for k, v in result["ratios"].items()})
    finally:
        if not own:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
