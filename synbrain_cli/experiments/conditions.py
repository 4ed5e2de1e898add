"""Conditions of an experiment: named sets of images, from folders or a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.images import ImageSet, list_images
from synbrain_cli.io.tables import read_table

LEAST = 2  # images of a condition: fewer have no variance


@dataclass(frozen=True)
class Condition:
    """Images that are shown in one condition.

    Attributes
    ----------
    name : str
    images : ImageSet
    """

    name: str
    images: ImageSet

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


def read_conditions(sources: Sequence[Path]) -> list[Condition]:
    """Read conditions from folders of images, one each, or from a table.

    Parameters
    ----------
    sources : sequence of Path
        Folders, whose names are those of the conditions; or one table with the columns ``image``
        (paths; relative ones from the table's folder) and ``condition``.

    Raises
    ------
    MissingError, InputError
        A folder or an image does not exist; a condition has fewer than `LEAST` images; two
        conditions have one name, or share an image.

    Examples
    --------
    >>> read_conditions([Path("faces"), Path("houses")])  # doctest: +SKIP
    """
    if len(sources) == 1 and not Path(sources[0]).is_dir():
        found = _from_table(Path(sources[0]))
    else:
        found = [_from_folder(Path(source)) for source in sources]
    check_conditions(found)
    return found


def _from_folder(folder: Path) -> Condition:
    if not folder.is_dir():
        raise MissingError(
            f"{folder}: expected a folder of images for each condition, or one table with the "
            "columns image and condition, found no such folder"
        )
    return Condition(folder.resolve().name, ImageSet.of(list_images(folder)))


def read_categories(sources: Sequence[Path]) -> list[Condition]:
    """Read categories from a folder that has one for each, from several folders, or from a table.

    Raises
    ------
    MissingError, InputError
        As `read_conditions`; a folder holds no folders.
    """
    if len(sources) > 1 or not Path(sources[0]).is_dir():
        return read_conditions(sources)
    folder = Path(sources[0])
    inside = sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")
    if not inside:
        raise InputError(
            f"{folder}: expected a folder of images for each category, found no folder in it"
        )
    return read_conditions(inside)


def _from_table(path: Path) -> list[Condition]:
    table = read_table(path, ("image", "condition"))
    images: dict[str, list[Path]] = {}
    for image, name in zip(table["image"], table["condition"], strict=True):
        images.setdefault(str(name), []).append(path.parent / str(image))
    return [Condition(name, images_of(own)) for name, own in images.items()]


def images_of(images: Any) -> ImageSet:
    """Return images in any accepted form; of listed files, several may have one name."""
    if isinstance(images, list | tuple) and all(isinstance(x, str | Path) for x in images):
        names = [f"{k:04d}-{Path(x).stem}" for k, x in enumerate(images, start=1)]
        return ImageSet.of(list(map(Path, images)), names)
    return ImageSet.of(images)


def check_conditions(conditions: Sequence[Condition]) -> None:
    """Refuse conditions that cannot be compared.

    Raises
    ------
    InputError
        Fewer than two; one with fewer than `LEAST` images; two of one name, or with one image.
    """
    names = [one.name for one in conditions]
    if len(set(names)) < max(len(names), 2):
        raise InputError(
            f"conditions: expected two or more of different names, found {', '.join(names)}"
        )
    for one in conditions:
        if len(one) < LEAST:
            raise InputError(
                f"{one.name}: expected {LEAST} images or more, found {len(one)}: how much images "
                "of a condition differ cannot be told from fewer"
            )
    seen: dict[str, tuple[str, str]] = {}
    for one in conditions:
        for k, image in enumerate(one.images.names):
            digest = one.images.digest(k)
            other = seen.setdefault(digest, (one.name, image))
            if other != (one.name, image):
                raise InputError(
                    f"{one.name}/{image}: the same picture as {other[0]}/{other[1]}: expected "
                    "every image once, in one condition"
                )
