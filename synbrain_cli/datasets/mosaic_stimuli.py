"""The stimuli of MOSAIC's data sets, in a folder of the user: MOSAIC does not pass them on.

Files are looked for under the names of MOSAIC's table of stimuli. Of videos (BMD, HAD) the middle
frame stands for the video, as in MOSAIC's own code (``copy_middleframe.py``, ``dataset.py``); NSD's
images are also taken from ``nsd_stimuli.hdf5``, by their number in the column ``alias``.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from synbrain_cli.datasets.mosaic_files import MosaicCopy, image_name
from synbrain_cli.datasets.nsd_files import read_bricks
from synbrain_cli.datasets.nsd_synthetic import as_seen
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.images import SUFFIXES, read_image
from synbrain_cli.paths import require_folder

BRICKS = "nsd_stimuli.hdf5"
VIDEO = ".mp4"
_FRAME = "_frame-"  # <video>_frame-<number>_<frames in all>.jpg
_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Stimuli:
    """The stimuli of a data set.

    Attributes
    ----------
    folder : Path
        Folder that holds them, in any folders below; of NSD also the file `BRICKS`.
    copy : MosaicCopy
        With the table of their names.
    """

    folder: Path
    copy: MosaicCopy

    def __post_init__(self) -> None:
        if self._bricks is None:
            require_folder(self.folder, "--images")

    @cached_property
    def _bricks(self) -> Path | None:
        """NSD's file of images, where it is there."""
        if self.copy.of.short != "NSD":
            return None
        for path in (self.folder, self.folder / BRICKS):
            if path.name == BRICKS and path.is_file():
                return path
        return None

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """Name → image files of that name; of a frame, the name of its video, too."""
        found: defaultdict[str, list[Path]] = defaultdict(list)
        for folder, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                if name.startswith(".") or path.suffix.lower() not in (*SUFFIXES, VIDEO):
                    continue
                found[name].append(path)
                if _FRAME in name:
                    found[name.rpartition(_FRAME)[0] + _FRAME].append(path)
        return dict(found)

    def require(self, images: Iterable[str]) -> dict[str, Path | int]:
        """Find images: name → file, or number in `BRICKS`.

        Raises
        ------
        MissingError, InputError
            When an image is not there, or two different files have its name.
        """
        images = sorted(set(images))
        table = self.copy.stimuli.loc[images]
        found: dict[str, Path | int] = {}
        absent = []
        for image, file, alias, artificial in zip(
            images, table["filename"], table["alias"], table["artificial"], strict=True
        ):
            one = self._find(file, alias)
            if one is None and self._bricks is not None and not artificial and alias.isdigit():
                one = int(alias)
            if one is None:
                absent.append(file)
            else:
                found[image] = one
        if absent:
            raise MissingError(self._say_absent(absent, len(images)))
        return found

    def _find(self, file: str, alias: str) -> Path | None:
        """Return the image of a stimulus: a file of its name, of a video its middle frame."""
        for name in (file, alias):
            if not name.lower().endswith(VIDEO):
                if paths := self._files.get(name):
                    return self._only(name, paths)
                continue
            stem = image_name(name)
            for suffix in SUFFIXES:
                if paths := self._files.get(stem + suffix):
                    return self._only(stem + suffix, paths)
            if frames := self._files.get(stem + _FRAME):
                return self._middle(stem, frames)
        return None

    def _only(self, name: str, paths: list[Path]) -> Path:
        """Return the file of a name; several must be copies."""
        if len(paths) > 1 and len({_digest(path) for path in paths}) > 1:
            raise InputError(
                f"{self.folder}: {paths[0]} and {paths[1]} are different files of the name {name}: "
                "leave one of them there"
            )
        return paths[0]

    def _middle(self, video: str, frames: list[Path]) -> Path:
        """Return the only frame, or number n // 2 of n, as MOSAIC's code chooses it."""
        if len(frames) == 1:
            return frames[0]
        for path in frames:
            number = path.stem.rpartition(_FRAME)[2].partition("_")[0]
            if number.isdigit() and int(number) == len(frames) // 2:
                return path
        raise InputError(
            f"{self.folder}: {len(frames)} frames of {video}, and none is number "
            f"{len(frames) // 2}, the middle one: leave the middle frame there"
        )

    def _say_absent(self, absent: list[str], n: int) -> str:
        of = self.copy.of
        listed = ", ".join(absent[:_SHOWN]) + (", …" if len(absent) > _SHOWN else "")
        if not of.videos:
            what = f"under the names of {self.copy.table_file.name}, from {of.stimuli}"
            if of.short == "NSD":
                what += f"; --images takes the file {BRICKS} itself, too (not for --artificial)"
        else:
            what = (
                f"middle frames as image files, named as the video or VIDEO{_FRAME}0030_0060.jpg, "
                f"from {of.stimuli}; videos themselves are not read"
            )
            if any(name in self._files for name in absent):
                what += ", and there are only videos"
        return (
            f"{self.folder}: {len(absent):,} of {n:,} stimuli of {of.name} are not there "
            f"({listed}); MOSAIC has none of its own: expected {what}"
        )

    def read(self, found: dict[str, Path | int], names: list[str]) -> Iterator[np.ndarray]:
        """Yield the pixels of images: uint8 (height, width, 3).

        NSD-synthetic's images were saved for a display with a linear response: their central
        square is taken and their root, as of `synbrain prepare nsd --set synthetic`.

        Parameters
        ----------
        found : dict
            From `require`.
        names : list of str
        """
        is_linear = self.copy.stimuli["artificial"] & (self.copy.of.short == "NSD")
        for name in names:
            where = found[name]
            if isinstance(where, Path):
                pixels = read_image(where)
                yield as_seen(pixels) if is_linear[name] else pixels
            else:
                assert self._bricks is not None
                yield from read_bricks(self._bricks, [where])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
