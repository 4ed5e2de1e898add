"""The folder of an experiment's images, and the file of each name in its table of trials."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.images import SUFFIXES
from synbrain_cli.paths import require_folder


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images that a table names.

    Attributes
    ----------
    folder : Path
    tables : str
        Names of the tables, for messages.
    """

    folder: Path
    tables: str

    def files(self) -> list[Path]:
        """Return the image files in the folder itself, sorted.

        Raises
        ------
        MissingError, InputError
            When there is no such folder.
        """
        if not self.folder.exists():
            raise MissingError(f"--images {self.folder}: no such folder")
        require_folder(self.folder, "the folder of images (--images)")
        return [path for path in sorted(self.folder.iterdir()) if _is_image(path)]

    def find(self, values: pd.Series) -> dict[str, Path]:
        """Return the image file of each value in the table; every image has a name of its own.

        Raises
        ------
        MissingError, InputError
            When there is no file of a value, or more than one; when two values name one image, or
            two images have one name.
        """
        by_stem: dict[str, list[Path]] = {}
        for path in self.files():
            by_stem.setdefault(path.stem, []).append(path)
        found: dict[str, Path] = {}
        missing = []
        for value in values.unique():
            path = self._find_one(value, by_stem)
            if path is None:
                missing.append(value)
            else:
                found[value] = path
        if missing:
            first = missing[0][:100]
            raise MissingError(
                f"{self.folder}: {len(missing)} of {values.nunique()} images of {self.tables} are "
                f"not in this folder (first: {first}): expected files of those names, with or "
                f"without one of {' '.join(SUFFIXES)}" + _advice(missing[0], by_stem)
            )
        self._check_names(found)
        return found

    def _find_one(self, value: str, by_stem: dict[str, list[Path]]) -> Path | None:
        """Return the image file of a value in the table, with or without folder and suffix.

        Only files of the image folder are found, whatever folder the value names.
        """
        folder, name = self.folder, Path(value)
        candidates = [folder / name.name]
        root = folder.absolute()
        if ".." not in name.parts and (root / name).is_relative_to(root):
            candidates.insert(0, folder / name)
        paths = [path for path in candidates if _is_file(path)][:1]
        paths = paths or by_stem.get(name.name) or by_stem.get(name.stem) or []
        if len(paths) > 1:
            raise InputError(
                f"{self.tables}: {value} is {paths[0].name} or {paths[1].name} in "
                f"{folder}: add the suffix in the table, or remove one of the files"
            )
        return paths[0] if paths else None

    def _check_names(self, found: dict[str, Path]) -> None:
        """Check that no two values name one image, and that no two images have the same name."""
        names: dict[str, Path] = {}
        value_of: dict[Path, str] = {}
        for value, path in found.items():
            if value_of.setdefault(path, value) != value:
                raise InputError(
                    f"{self.tables}: {value_of[path]} and {value} are the same file, {path}: name "
                    "each image in one way; for images in sub-folders pass the folder above them"
                )
            if names.setdefault(path.stem, path) != path:
                raise InputError(
                    f"{path}: the same name as {names[path.stem]}: images are identified by their "
                    "name without folder and suffix, so rename one of them"
                )


def _advice(value: str, by_stem: dict[str, list[Path]]) -> str:
    """Say so where a spreadsheet took the zeros from names such as 007."""
    with contextlib.suppress(ValueError, OverflowError):
        same = [stem for stem in by_stem if stem.isdecimal() and int(stem) == float(value)]
        if same:
            return f"; {same[0]} is there: a spreadsheet may have taken the zeros from the names"
    if "\\" in value:
        return "; folders in names are separated by /"
    return ""


def _is_image(path: Path) -> bool:
    """Whether an entry of a folder has the name of an image file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _is_file(path: Path) -> bool:
    """Whether there is a regular file of this name; no file can have a name that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False
