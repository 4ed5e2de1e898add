"""Where a model's tokens of images come from: an image encoder, files of the user's, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synbrain_cli.bands import OWN, is_own
from synbrain_cli.config import Band
from synbrain_cli.errors import InputError
from synbrain_cli.features.encoder import Encoder
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.token_files import TokenFile, TokenRows
from synbrain_cli.tokens import Tokens

TokenFiles = Mapping[str, Path | str] | Sequence[TokenFile]


def read_token_files(files: TokenFiles) -> tuple[TokenFile, ...]:
    """Return files of tokens as Python users give them, by name, or as they are.

    Raises
    ------
    InputError
    """
    if isinstance(files, Mapping):
        return tuple(TokenFile.parse(f"{name}={path}") for name, path in files.items())
    return tuple(files)


def match_files(model: str, bands: Sequence[Band], files: TokenFiles) -> dict[str, TokenFile]:
    """Say which file has the tokens of which of a model's own bands.

    Parameters
    ----------
    model : str
        For messages.
    bands : sequence of Band
        Of the model.
    files : mapping of str to path, or sequence of TokenFile
        A single one need not have the name of the model's single band of this kind, unless it was
        given one.

    Returns
    -------
    dict
        Name of the band → its file. Bands without a file are not in it.

    Raises
    ------
    InputError
        When the model has no such band, or the tokens have another shape.
    """
    own = {band.spec: band for band in bands if is_own(band.spec)}
    names = ", ".join(own) or "none"
    found: dict[str, TokenFile] = {}
    given = read_token_files(files)
    for file in given:
        spec = file.spec
        if spec not in own and not file.is_named and len(own) == len(given) == 1:
            spec = next(iter(own))
        if spec not in own:
            raise InputError(
                f"{file.path}: {model} has no band {spec}; bands of your own that it was trained "
                f"on: {names}"
            )
        if spec in found:
            raise InputError(f"{file.path}: tokens of {spec} are given twice: name each band once")
        if file.token_shape != own[spec].token_shape:

            def shown(shape: tuple[int, int]) -> str:
                return f"{shape[0]} tokens of {shape[1]} dimensions"

            raise InputError(
                f"{file.path}: expected {shown(own[spec].token_shape)} per image, as {model} was "
                f"trained on ({spec}), found {shown(file.token_shape)}"
            )
        found[spec] = file
    return found


@dataclass(frozen=True)
class TokenSource:
    """What makes tokens of the images that a model is shown.

    Attributes
    ----------
    model : str
        For messages.
    bands : tuple of Band
        Of the model.
    encoder : Encoder, optional
        Of the bands that are computed from pictures, in their order; None where there are none.
    files : dict
        Name of each other band → its file, where one was given.
    """

    model: str
    bands: tuple[Band, ...]
    encoder: Encoder | None
    files: dict[str, TokenFile]

    @property
    def identities(self) -> tuple[dict[str, Any], ...]:
        """Identity of every band: of those that are computed, as their encoder has it."""
        computed = iter(self.encoder.bands if self.encoder else ())
        return tuple(
            band.identity if is_own(band.spec) else next(computed).identity for band in self.bands
        )

    @property
    def needs_pictures(self) -> bool:
        """Whether any band is computed from pictures."""
        return self.encoder is not None

    def require_files(self) -> None:
        """Refuse images whose tokens of a band are in no file.

        Raises
        ------
        InputError
        """
        missing = [b.spec for b in self.bands if is_own(b.spec) and b.spec not in self.files]
        if missing:
            raise InputError(
                f"{self.model} predicts from {missing[0]}, tokens of your own, which no encoder "
                f"computes: give those of these images, --tokens {missing[0].removeprefix(OWN)}="
                'FILE (in Python, load_model(…, tokens={"'
                f'{missing[0].removeprefix(OWN)}": FILE}})); pictures that the program makes, as '
                "localizers, cannot be shown to it"
            )

    def known(self, pictures: ImageSet) -> dict[str, TokenRows]:
        """Say which rows of the files belong to some images.

        Parameters
        ----------
        pictures : ImageSet

        Returns
        -------
        dict
            Name of the band → its rows, in the order of the bands.

        Raises
        ------
        MissingError, InputError
            When a band has no file; when files and images do not belong together.
        """
        self.require_files()
        called = pictures.called
        found = {}
        for band in self.bands:
            if is_own(band.spec):
                file = self.files[band.spec]
                if file.listed is None and _are_of_several(called):
                    raise InputError(
                        f"{file.path}: images of several folders: name the image of each row in "
                        f"{file.path.with_suffix('.tsv')}, a table with the column image"
                    )
                found[band.spec] = file.of_images(called, "the images")
        return found

    def own_of(self, pictures: ImageSet) -> OwnTokens:
        """Return the tokens of some images in the bands that no encoder computes.

        Raises
        ------
        MissingError, InputError
            As `known`; an image has no row.
        """
        known = self.known(pictures)
        called = pictures.called
        return OwnTokens([(one.file, one.rows_of(called)) for one in known.values()])

    def merge(self, computed: Tokens | None, own: Tokens | None) -> Tokens:
        """Put computed bands and others in the order of the model's."""
        left = iter(computed.bands if computed else ()), iter(own.bands if own else ())
        return Tokens(tuple(next(left[is_own(band.spec)]) for band in self.bands))


@dataclass(frozen=True)
class OwnTokens:
    """Tokens of some images in bands that no encoder computes.

    Attributes
    ----------
    rows : list of (TokenFile, list of int)
        Of each band, the file, and the row of each image.
    """

    rows: list[tuple[TokenFile, list[int]]]

    def of(self, image: int) -> Tokens | None:
        """Return the tokens of one image, by its number; None where there is no such band."""
        if not self.rows:
            return None
        return Tokens(tuple(file.read([rows[image]]) for file, rows in self.rows))


def _are_of_several(called: Sequence[str]) -> bool:
    """Whether images are files of several folders."""
    return len({name.rpartition("/")[0] for name in called}) > 1
