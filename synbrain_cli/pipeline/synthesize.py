"""`synbrain synthesize`: images → single-trial responses on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import shown_images
from synbrain_cli.brain.prediction import BATCH
from synbrain_cli.errors import InputError
from synbrain_cli.features.images import ImageSet, passed_over
from synbrain_cli.io.files import sha256
from synbrain_cli.io.responses import AGAIN, ResponseImage, ResponseSettings
from synbrain_cli.io.tables import read_table, row_in, whole_numbers
from synbrain_cli.io.token_files import TokenFile
from synbrain_cli.io.workfolder import FolderKind, WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import derived_name
from synbrain_cli.memory import gigabytes, require_disk
from synbrain_cli.model.uncertainty import FARTHEST
from synbrain_cli.pipeline.response_writer import ResponseWriter
from synbrain_cli.prefetch import prefetch
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

FOLDER = FolderKind("responses", "--output")
BATCHES_PER_ROUND = 2  # of images, in each process: what an interruption may cost
WORTH_SAYING = 1e9  # bytes on the disk


@dataclass(frozen=True)
class Output:
    """Where responses are written.

    Attributes
    ----------
    folder : path, optional
        Default ``outputs/<model>_<folder of images>``.
    spaces : sequence of str, optional
        Spaces to which expected responses and standard deviations are resampled, beside the
        subject's own:
        fsaverage5, fsaverage6, fsaverage, fsnative (GIFTI), MNI (NIfTI). Default: fsaverage5 where
        the subject has transforms to it.
    maps : bool
        Write files of their own for every image (NIfTI, GIFTI) beside the arrays of all images.
    overwrite : bool
        Replace a finished output of other settings.

    Raises
    ------
    InputError
        Spaces for maps that are not written.
    """

    folder: Path | None = None
    spaces: Sequence[str] | None = None
    maps: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.spaces and not self.maps:
            raise InputError("--space and --no-maps: expected spaces of maps, or no maps")


@dataclass(frozen=True)
class SynthesizeResult:
    """What was written.

    Attributes
    ----------
    folder : Path
    draws : Path
        ``.npy``, float32 (n_images, n_draws, n_voxels).
    images : DataFrame
        ``images.tsv``: index, image, source, and, of maps of a volume, nifti.
    """

    folder: Path
    draws: Path
    images: pd.DataFrame


def synthesize(
    workspace: Workspace,
    model: Path,
    images: Any,
    drawing: Drawing | None = None,
    output: Output | None = None,
    run: RunContext | None = None,
    tokens: Sequence[TokenFile] = (),
) -> SynthesizeResult:
    """Draw responses to images and write them as arrays, volumes and surfaces.

    Works image by image in constant memory, while threads prefetch images and write files. What is
    written does not depend on the number of processes (`Brain.draw`), which may also change when a
    stopped run continues.

    Parameters
    ----------
    workspace : Workspace
    model : path
        Bundle.
    images : path, or list of paths, optional
        Folder of images, or image files; or, of a model that sees no pictures, a file of tokens,
        or None where ``tokens`` name the images.
    drawing : Drawing, optional
    output : Output, optional
    run : RunContext, optional
        Its device, processes and progress are used; the seed is that of the drawing.
    tokens : sequence of TokenFile
        Tokens of the images in bands of the user's own.

    Raises
    ------
    MissingError, InputError
        No images, or an image that cannot be read; a damaged model; a space that the subject
        cannot be resampled to; draws that this model cannot make; an output of other settings.
    BusyError
        Another process is writing the output.
    """
    # Set up
    output, run = output or Output(), run or RunContext()
    pictures, images, tokens = shown_images(images, tokens)
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        _log_passed_over(Path(images), run.progress)
    brain = Brain(Path(model), run.device, tokens)
    drawing = brain.settle(drawing or Drawing())
    settings = run.processes.on_main(
        lambda: _recorded(brain, drawing, pictures, output, run.progress)
    )
    folder = output.folder or workspace.output_of(brain.name, derived_name(_called(images)))
    writer = ResponseWriter(brain, pictures, settings, run.command)
    with work_folder(
        folder,
        FOLDER,
        msgspec.to_builtins(settings),
        overwrite=output.overwrite,
        processes=run.processes,
        progress=run.progress,
    ) as work:
        if work.is_finished:
            run.progress.info(f"{folder}: already there, made with the same settings")
            return _result(writer, folder)

        # Compute the draws, and write those of each image as soon as they are there
        done = run.processes.on_main(lambda: _begin(writer, work, run.progress))
        _draw(writer, drawing, done, work, run)

        # Write the records
        run.processes.on_main(lambda: _finish(writer, work, run.progress))
    shape = writer.shape
    rows = "" if brain.config.averaged_over == 1 else f"; draws are {brain.config.rows}"
    run.progress.info(
        f"wrote {folder}: {shape[0]} images × {shape[1]} draws × {shape[2]:,} voxels{rows}"
    )
    return _result(writer, folder)


def _log_passed_over(folder: Path, progress: Progress) -> None:
    left_out = passed_over(folder)
    if left_out:
        progress.info(left_out)


def _called(images: Any) -> str:
    """Name of a folder of images, or of one image file without its suffix."""
    if not isinstance(images, (str, Path)):
        return "images"
    path = Path(images).resolve()
    return path.name if path.is_dir() else path.stem


def _draw(
    writer: ResponseWriter,
    drawing: Drawing,
    done: np.ndarray,
    work: WorkFolder,
    run: RunContext,
) -> None:
    """Write the draws of all images that are not done; each process those of its batches.

    Where one image of a batch is not, the whole batch is drawn.

    Parameters
    ----------
    writer : ResponseWriter
    drawing : Drawing
    done : bool array of shape (n_images,)
    work : WorkFolder
    run : RunContext
    """
    brain, pictures, processes = writer.brain, writer.pictures, run.processes
    starts = range(0, len(pictures), BATCH)
    every = [range(i, min(i + BATCH, len(pictures))) for i in starts]
    batches = [batch for batch in every if not done[batch.start : batch.stop].all()]
    rounds = list(processes.deal(batches, BATCHES_PER_ROUND))
    own = [row for _, part in rounds for batch in part for row in batch]
    n_done = len(pictures) - sum(map(len, batches))

    with (
        run.progress.bar("drawing", len(pictures), n_done, shorter=_shorter(writer)) as bar,
        writer.opened(work.partial) as write,
        closing(brain.stream(pictures, drawing, own)) as drawn,
        closing(prefetch(write, zip(own, drawn, strict=True), writer.map_bytes)) as written,
    ):
        for whole, part in rounds:
            mine = {}
            for row, digest in zip(chain.from_iterable(part), written, strict=False):
                mine[row] = digest
                bar.to(min(n_done + len(mine) * processes.size, len(pictures)))
            write.sync()
            found = dict(chain.from_iterable(x.items() for x in processes.collect(mine)))
            n_done += sum(map(len, whole))
            processes.on_main(partial(writer.done(work).note, found))


def _begin(writer: ResponseWriter, work: WorkFolder, progress: Progress) -> np.ndarray:
    """Find which images are done; refuse what does not fit on the disk; create the arrays."""
    n_images, n_draws, n_voxels = writer.shape
    what = f"drawing {n_images:,} images × {n_draws} draws × {n_voxels:,} voxels"
    done = writer.find(work, progress)
    arrays, maps = writer.bytes_needed(work, int((~done).sum()))
    less = "fewer --samples or images, or choose an --output on another disk"
    if maps:
        less = f"pass --no-maps ({gigabytes(arrays)} GB), {less}"
    enough = require_disk(arrays + maps, work.partial, what, less)
    if arrays + maps > WORTH_SAYING:
        progress.info(f"{what}; {enough}")
    if not done.any():
        writer.create(work)
    return done


def _shorter(writer: ResponseWriter) -> str:
    """Name what takes less time: the encoder of the images takes the rest."""
    return "--no-maps (arrays alone), or fewer images" if writer.settings.maps else "fewer images"


def _finish(writer: ResponseWriter, work: WorkFolder, progress: Progress) -> None:
    writer.write_records(work.partial)
    if "distance" in writer.settings.statistics:
        far = writer.distances(work.partial) >= FARTHEST
        if far.any():
            progress.info(
                f"{far.sum():,} of {len(far):,} images are farther from the training images than "
                "any of these is from the others (images.tsv, distance): what the model says of "
                "them is extrapolated"
            )
    work.put_in_place()


def _result(writer: ResponseWriter, folder: Path) -> SynthesizeResult:
    """Return what a finished folder holds."""
    path = folder / "images.tsv"
    table = read_table(path, ("index", "image", "source"), again=AGAIN)
    table["index"] = whole_numbers(table["index"], row_in(path), lowest=0)
    return SynthesizeResult(folder, folder / writer.array, table)


def _recorded(
    brain: Brain, drawing: Drawing, pictures: ImageSet, output: Output, progress: Progress
) -> ResponseSettings:
    """Return what the responses depend on, for ``settings.json``."""
    spaces = _choose_spaces(brain, output.spaces) if output.maps else []
    images, known = [], brain.source.known(pictures)
    with progress.bar("checksums of the images", len(pictures)) as bar:
        for name, source in zip(pictures.names, pictures.sources, strict=True):
            path = str(Path(source).resolve())
            seen = sha256(source) if pictures.are_seen else ""
            images.append(ResponseImage(name=name, source=path, sha256=seen))
            bar()
    return ResponseSettings(
        model=brain.name,
        model_folder=str(brain.folder.resolve()),
        model_fingerprint=brain.config.fingerprint,
        **asdict(drawing),
        spaces=spaces,
        maps=output.maps,
        statistics=brain.statistics(drawing.sampling),
        images=images,
        tokens={spec: str(rows.identity["weights"]) for spec, rows in known.items()},
    )


def _choose_spaces(brain: Brain, asked: Sequence[str] | None) -> list[str]:
    """Return the spaces asked for, checked, or those of the default that can be reached.

    Raises
    ------
    InputError
        The subject has no transforms to a space.
    """
    reached = brain.voxel_space.other_spaces
    if asked is None:
        default = brain.voxel_space.surface
        return [default] if default in reached else []
    for space in asked:
        if space not in reached:
            listed = ", ".join(reached) or "none: it was prepared without transforms"
            raise InputError(f"--space {space}: {brain.name} can be resampled to {listed}")
    return list(dict.fromkeys(asked))
