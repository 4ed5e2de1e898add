"""Reading image files and converting them to 8-bit RGB pixels.

>>> import numpy as np
>>> images = ImageSet.of(np.zeros((2, 8, 8, 3), np.uint8))
>>> len(images), images.names
(2, ['image-0001', 'image-0002'])
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, features

from synbrain_cli.errors import DAMAGED, InputError, InputTypeError, MissingError
from synbrain_cli.features.grey import ADVICE, LEAST_16_BIT, grey_to_8_bits
from synbrain_cli.labels import IMAGE_SUFFIXES
from synbrain_cli.paths import require_folder, require_regular_file

if TYPE_CHECKING:
    import torch

# AVIF is not in every build of Pillow.
SUFFIXES = tuple(x for x in IMAGE_SUFFIXES if x != ".avif" or features.check("avif"))
MAX_PIXELS = 100_000_000  # 300 MB decoded; a small file can claim far more
# What Pillow warns of is refused here, or of no consequence for the pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")
GREY = 128  # background of transparent pixels

ACCEPTED = (
    "a folder, a path, a list of paths, PIL images, a uint8 array (n, h, w, 3) "
    "or (h, w, 3), or a list of uint8 arrays (h, w, 3)"
)

# Exceptions of Pillow for files that are truncated or altered.
_UNREADABLE = (*DAMAGED, SyntaxError)


def read_image(path: str | Path) -> np.ndarray:
    """Read one image file as 8-bit RGB.

    Conversions are defined as follows (ours):

    - grey, palette, CMYK, YCbCr, Lab → RGB by Pillow's formulas; embedded ICC profiles are ignored
      (pixels are taken as sRGB, as stimulus software does);
    - grey of 16 or 32 bits → 8 bits as its values say (`synbrain_cli.features.grey`); 16-bit
      colour is reduced by Pillow itself, which keeps the high byte;
    - transparency → composited on mid-grey (128): scanner and monkey experiments show images on a
      grey screen, and neither a black nor a white background would be neutral;
    - EXIF orientation → applied.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    array of shape (h, w, 3), uint8

    Raises
    ------
    MissingError
        When there is no such file.
    InputError
        When the file is unreadable, truncated, animated, or of more than `MAX_PIXELS`; when it is
        no file but a folder, a pipe or a device.
    """
    path = _require_image(path)
    try:
        with Image.open(path) as image:
            return _rgb(image, str(path))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(str(path), "far more") from error
    except _UNREADABLE as error:
        size = path.stat().st_size
        what = "an empty file" if size == 0 else f"{size} bytes that do not decode ({error})"
        raise InputError(
            f"{path}: expected a readable image, found {what}: copy or export it again, "
            "or remove it"
        ) from error


def _require_image(path: str | Path) -> Path:
    return require_regular_file(path, "an image file", "pass image files, or one folder of them")


def _too_large(name: str, found: str) -> InputError:
    return InputError(
        f"{name}: expected at most {MAX_PIXELS:,} pixels, found {found}: save it smaller"
    )


def _rgb(image: Image.Image, name: str) -> np.ndarray:
    """Convert a PIL image as `read_image` documents. Returns uint8 (h, w, 3)."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"{image.width:,} × {image.height:,}")
    n_frames = getattr(image, "n_frames", 1)
    if n_frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with a preview behind it
        raise InputError(
            f"{name}: expected a still image, found {image.format} with {n_frames} frames: "
            "save the frame you want as PNG"
        )
    has_16_bits = ";16" in str(getattr(image, "tile", ""))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        grey = grey_to_8_bits(np.asarray(image), image.mode, name)
        return np.repeat(grey[..., None], 3, axis=2)
    if has_16_bits:
        _check_high_bytes(image, name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, (GREY, GREY, GREY, 255))
        image = Image.alpha_composite(behind, image)
    return np.array(image.convert("RGB"))


def _check_high_bytes(image: Image.Image, name: str) -> None:
    """Refuse colours of 16 bits of which Pillow's 8 are nearly black: their range is another."""
    colours = image.convert("RGB") if image.mode != "RGB" else image
    if max(high for _, high in colours.getextrema()) < LEAST_16_BIT >> 8:
        raise InputError(
            f"{name}: expected colours of 16 bits, found values that do not reach {LEAST_16_BIT}, "
            f"which may be of 8, 10, 12, 14 or 16 bits: {ADVICE}"
        )


def passed_over(folder: str | Path) -> str:
    """Say in a line which entries of a folder `list_images` leaves out; empty where none is.

    Hidden files are not mentioned.
    """
    others = sorted(p for p in Path(folder).iterdir() if not p.name.startswith("."))
    folders = [p for p in others if p.is_dir()]
    files = [p.name for p in others if not p.is_dir() and not _is_image(p)]
    parts = []
    if files:
        listed = ", ".join(files[:5]) + (", …" if len(files) > 5 else "")
        parts.append(f"{len(files)} {'file' if len(files) == 1 else 'files'} not read ({listed})")
    if folders:
        parts.append(
            f"{len(folders)} {'folder' if len(folders) == 1 else 'folders'} in it not searched"
        )
    return f"{folder}: {', '.join(parts)}" if parts else ""


def _is_image(path: Path) -> bool:
    """Whether an entry of a folder is meant to be an image; it may be a link to nothing."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def list_images(folder: str | Path) -> list[Path]:
    """Return the image files of a folder, by name; subfolders and hidden files are ignored.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    list of Path

    Raises
    ------
    MissingError
        When there is no such folder, or no image in it, or a link where an image is missing.
    InputError
        When the path is not a folder, an image in it is a pipe or a device, or two images have the
        same name without suffix, by which outputs are named.
    """
    folder = require_folder(folder, "a folder of images")
    paths = sorted(path for path in folder.iterdir() if _is_image(path))
    if not paths:
        raise MissingError(
            f"{folder}: expected images ({' '.join(SUFFIXES)}), found none: "
            "subfolders are not searched"
        )
    for path in paths:
        _require_image(path)
    _unique_names([p.stem for p in paths], [str(p) for p in paths])
    return paths


def image_name(name: str) -> str:
    """Return the name of an image as outputs have it: "my-cat-0-" for "my cat (0)"."""
    return re.sub(r"[^\w.-]+", "-", name)


def _unique_names(names: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return names that are valid in file names; raise an `InputError` where two are equal."""
    if len(names) != len(sources):
        raise InputError(f"expected {len(sources)} names, one per image, found {len(names)}")
    safe = [image_name(str(name)) for name in names]
    first: dict[str, int] = {}
    for i, name in enumerate(safe):
        other = first.setdefault(name.casefold(), i)  # some file systems ignore case
        if other != i:
            raise InputError(
                f"{sources[i]}: image {i + 1} has the same name ({name}) as image {other + 1}, "
                f"{sources[other]}; outputs are named after their image, without its suffix: "
                "rename one of them, or leave one out"
            )
    return safe


@dataclass(frozen=True)
class Unseen:
    """Stands for an image of which tokens are known, in a file, and no picture."""

    file: Path


class ImageSet(Sequence):
    """Images of any accepted kind, which are read one at a time when they are used.

    It is made with `ImageSet.of`. Memory does not depend on the number of files.

    Attributes
    ----------
    names : list of str
        Unique and safe in file names: a file's stem, else ``image-0001``, ``image-0002``, …
    sources : list of str
        Path of the file, of images without a picture that of their tokens, or ``"array"``.
    """

    def __init__(self, items: Sequence[Any], names: Sequence[str] | None = None) -> None:
        self._items = items
        # Arrays stay unread
        self._listed = listed = items if isinstance(items, list) else [None] * len(items)
        self.sources = [_source(x) for x in listed]
        if names is None:
            names = [
                x.stem if isinstance(x, Path) else f"image-{i:04d}"
                for i, x in enumerate(listed, start=1)
            ]
        self.names = _unique_names(names, self.sources)

    @classmethod
    def of(cls, images: Any, names: Sequence[str] | None = None) -> ImageSet:
        """Make an image set from images in any accepted form.

        Parameters
        ----------
        images : folder, path, list of paths, PIL image(s), uint8 array (n, h, w, 3) or (h, w, 3), \
list of uint8 arrays (h, w, 3), or ImageSet
            Arrays may be memory maps or HDF5 datasets: they are read one image at a time.
        names : sequence of str, optional
            Names of the images, instead of those of the files.

        Raises
        ------
        InputTypeError
            When images have another form, such as floating-point arrays.
        InputError, MissingError
            When an image does not exist, there is no image, or two have the same name.
        """
        if isinstance(images, ImageSet):
            return images if names is None else cls(images._items, names)
        if isinstance(images, str | Path):
            path = Path(images)
            return cls(list_images(path) if path.is_dir() else [_require_image(path)], names)
        if isinstance(images, Image.Image):
            return cls([images], names)
        if hasattr(images, "shape") and hasattr(images, "dtype"):
            return cls(_image_stack(images), names)
        if not isinstance(images, Sequence):
            raise InputTypeError(f"expected {ACCEPTED}; found {type(images).__name__}")
        if not len(images):
            raise InputError("expected at least one image, found an empty list")
        return cls([_item(x, i) for i, x in enumerate(images)], names)

    @classmethod
    def unseen(cls, names: Sequence[str], file: Path) -> ImageSet:
        """Make a set of images without pictures, whose tokens are in a file."""
        return cls([Unseen(file)] * len(names), names)

    @property
    def are_seen(self) -> bool:
        """Whether there are pictures."""
        return not any(isinstance(x, Unseen) for x in self._items[:1])

    @property
    def called(self) -> list[str]:
        """Names by which files of tokens know the images: paths, or names where there are none."""
        paths = map(Path.as_posix, map(Path, self.sources))
        return [
            path if isinstance(item, Path) else name
            for path, name, item in zip(paths, self.names, self._listed, strict=True)
        ]

    @property
    def items(self) -> list[Any]:
        """Images as they were given: paths, PIL images or arrays."""
        return list(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int) -> np.ndarray:
        """Return the pixels of image ``i``: uint8 (height, width, 3)."""
        i = range(len(self))[i]
        item = self._items[i]
        if isinstance(item, Path):
            return read_image(item)
        if isinstance(item, Unseen):
            raise InputError(
                f"{self.names[i]}: its tokens are known ({item.file}), but not its picture: pass "
                "the images themselves"
            )
        if isinstance(item, Image.Image):
            try:
                return _rgb(item, self.names[i])
            except InputError:
                raise
            except _UNREADABLE as error:
                raise InputError(f"{self.names[i]}: PIL image that does not decode: {error}") from (
                    error
                )
        return np.ascontiguousarray(item)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} images: {', '.join(self.names[:3])}{', …' * (len(self) > 3)})"

    def digest(self, i: int) -> str:
        """Return the `image_digest` of image ``i``."""
        return image_digest(self[i])


def _source(item: Any) -> str:
    if isinstance(item, Unseen):
        return str(item.file)
    return str(item) if isinstance(item, Path) else "array"


def image_digest(image: np.ndarray) -> str:
    """Return the SHA-256 (hexadecimal) of decoded pixels, uint8 (h, w, 3), and of their shape.

    The digest of the same pixels is the same for a PNG, a PIL image and an array.
    """
    image = np.ascontiguousarray(image)
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _item(item: Any, i: int) -> Path | Image.Image | np.ndarray:
    """One element of a list of images, checked."""
    if isinstance(item, str | Path):
        return _require_image(item)
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, np.ndarray) and item.ndim == 3:
        return _image_stack(item)[0]
    raise InputTypeError(f"expected {ACCEPTED}; element {i} is {_describe(item)}")


def _image_stack(array: Any) -> Any:
    """Check an array of images; returns it as (n, h, w, 3)."""
    found = _describe(array)
    if array.dtype != np.uint8:
        raise InputTypeError(
            f"expected {ACCEPTED}; found {found}: multiply images in [0, 1] by 255, round and "
            "convert to uint8 (tokens, float (n_images, n_tokens, n_dims), are passed as tokens)"
        )
    if len(array.shape) not in (3, 4) or array.shape[-1] != 3:
        raise InputTypeError(f"expected {ACCEPTED}; found {found}")
    if 0 in array.shape:
        raise InputError(f"expected at least one image of at least one pixel; found {found}")
    return array if len(array.shape) == 4 else np.asarray(array)[None]


def _describe(x: Any) -> str:
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype} {type(x).__name__} of shape {tuple(x.shape)}"
    return type(x).__name__


def resize(
    images: Sequence[np.ndarray] | np.ndarray, size: int, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Crop and resize images to squares of one size, with values in [0, 1].

    The largest centred square is cropped (NSD's images are square), resized by bicubic
    interpolation with antialiasing, and clipped to [0, 1].

    Parameters
    ----------
    images : sequence of uint8 arrays (h, w, 3), or uint8 array of shape (n, h, w, 3)
        Consecutive images of equal size are copied and resized together.
    size : int
        Side of the result, in pixels.
    device : str or torch.device
        Device of the computation.

    Returns
    -------
    tensor of shape (n, 3, size, size), float32
        Images do not affect one another; on a CPU results are identical to the last bit.
    """
    import torch
    from torch.nn.functional import interpolate

    on_gpu = torch.device(device).type == "cuda"
    out = []
    for (side, _, _), run in groupby(map(_square, images), np.shape):
        squares = list(run)
        # A copy out of pinned memory leaves the processor free to read and cut the next images.
        pixels = torch.empty(len(squares), side, side, 3, dtype=torch.uint8, pin_memory=on_gpu)
        np.stack(squares, out=pixels.numpy())
        x = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        x = x.float().div_(255)  # (n, 3, side, side)
        if side != size:
            x = interpolate(x, (size, size), mode="bicubic", antialias=True)
        out.append(x.clamp_(0, 1))
    return torch.cat(out)


def _square(image: np.ndarray) -> np.ndarray:
    """The largest centred square: (h, w, 3) → (side, side, 3)."""
    h, w = image.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return image[top : top + side, left : left + side]
