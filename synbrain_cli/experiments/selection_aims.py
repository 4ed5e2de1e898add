r"""What images are selected for: regions of a model, and what their response is to do.

A region is an ROI of the model (``FFA-1``), a single voxel or unit by its row in the model's table
(``voxel:12``, counted from 0), or a union of these (``V1+V2+voxel:12``). Two regions are contrasted
as in relational neural control (Gifford et al. 2025, *Nature Human Behaviour*): ``+V1:-hV4`` drives
V1 and suppresses hV4; ``+V1:+hV4``, ``-V1:-hV4`` and ``-V1:+hV4`` are the other three conditions.
``V1:hV4`` is short for ``+V1:-hV4``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError

USUAL = 20  # images chosen, where nothing else is asked for
_SIGNS = {"+": 1, "-": -1}
_VOXEL = re.compile(r"voxel:(\d{1,12})")


@dataclass(frozen=True, eq=False)
class Region:
    """Voxels whose average response is looked at.

    Attributes
    ----------
    name : str
        As it was asked for.
    mask : bool array of shape (n_voxels,)
        At least one voxel.
    """

    name: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Aim:
    """What the response of a region is to do.

    Attributes
    ----------
    sign : int
        1: large; −1: small.
    region : Region
    """

    sign: int
    region: Region


@dataclass(frozen=True)
class SelectionSettings:
    """What images are selected for, and how many.

    One of `drive`, `suppress` and `contrast` is given; with two models, none of them.

    Attributes
    ----------
    drive, suppress : str, optional
        Region whose response is to be large, or small.
    contrast : str, optional
        Two regions, ``+V1:-hV4``.
    roi : str, optional
        With two models: region in which they are compared. Default, of one subject: all voxels.
    top : int, optional
        Images chosen; default 20, or half of the images where these are fewer than 40.
    independent : bool
        Also estimate what the chosen set is worth by fits that did not choose it, where the data
        for these are there.

    Raises
    ------
    InputError
        When several of them are given, or `top` is no number of images.
    """

    drive: str | None = None
    suppress: str | None = None
    contrast: str | None = None
    roi: str | None = None
    top: int | None = None
    independent: bool = True

    def __post_init__(self) -> None:
        given = [f"--{name} {text}" for name, text in self._asked.items()]
        if len(given) > 1:
            raise InputError(f"expected one of {', '.join(given)}: they ask for different images")
        if given and self.roi is not None:
            raise InputError(
                f"--roi {self.roi}: expected with --tell-apart alone; {given[0]} names its region"
            )
        if self.top is not None and self.top < 1:
            raise InputError(f"--top {self.top}: expected one or more")

    @property
    def _asked(self) -> dict[str, str]:
        asked = {"drive": self.drive, "suppress": self.suppress, "contrast": self.contrast}
        return {name: text for name, text in asked.items() if text is not None}

    @property
    def criterion(self) -> str:
        """Return "drive", "suppress", "contrast" or, with two models, "tell-apart"."""
        return next(iter(self._asked), "tell-apart")

    @property
    def of(self) -> str:
        """The regions, as they were asked for; empty where all voxels are compared."""
        return next(iter(self._asked.values()), self.roi or "")

    def n_chosen(self, n_images: int) -> int:
        """Return how many of the candidates are chosen.

        Raises
        ------
        InputError
            When there are fewer than two candidates, or more are asked for than half of them.
        """
        if n_images < 2:
            raise InputError(
                f"expected two images or more to choose among, found {n_images}: name a folder of "
                "candidates"
            )
        top = min(USUAL, n_images // 2) if self.top is None else self.top
        if top > n_images // 2:
            raise InputError(
                f"--top {top}: expected at most {n_images // 2}, half of the {n_images:,} images: "
                "those chosen are compared with as many at the other end"
            )
        return top

    def aims(self, brain: Brain) -> tuple[Aim, ...]:
        """Find the regions in a model, and the signs of their responses.

        Raises
        ------
        InputError
            When nothing was asked for, or a region is not there.
        """
        if self.drive is not None:
            return (Aim(1, find_region(brain, self.drive, "--drive")),)
        if self.suppress is not None:
            return (Aim(-1, find_region(brain, self.suppress, "--suppress")),)
        if self.contrast is not None:
            return parse_contrast(brain, self.contrast)
        raise InputError(
            "expected what images are selected for: --drive ROI, --suppress ROI, --contrast A:B or "
            "--tell-apart MODEL_A,MODEL_B"
        )


def find_region(brain: Brain, text: str, option: str) -> Region:
    """Find an ROI, a voxel, or a union of these in a model.

    Parameters
    ----------
    brain : Brain
    text : str
        "FFA-1", "V1+V2", "voxel:12".
    option : str
        That named it, for messages.

    Raises
    ------
    InputError
        When one is not there; the message lists the ROIs that are.
    """
    rois = brain.rois()
    mask = np.zeros(brain.n_voxels, bool)
    for part in [text] if text in rois else text.split("+"):
        mask |= _part_of(brain, part, rois, f"{option} {text}")
    return Region(text, mask)


def _part_of(
    brain: Brain, part: str, rois: dict[str, NDArray[np.bool_]], asked: str
) -> NDArray[np.bool_]:
    if part in rois:
        return rois[part]
    voxel = _VOXEL.fullmatch(part)
    if voxel is None:
        listed = ", ".join(rois) or "none"
        raise InputError(
            f"{asked}: {brain.name} has no ROI {part!r}; its ROIs: {listed}; a union is written "
            "A+B, a single voxel voxel:12"
        )
    number = int(voxel[1])
    if number >= brain.n_voxels:
        raise InputError(
            f"{asked}: expected a voxel from voxel:0 to voxel:{brain.n_voxels - 1} of "
            f"{brain.name}, found voxel:{number}"
        )
    return np.arange(brain.n_voxels) == number


def parse_contrast(brain: Brain, text: str) -> tuple[Aim, Aim]:
    """Find the two regions of a contrast in a model, and their signs.

    Parameters
    ----------
    brain : Brain
    text : str
        "+V1:-hV4", "V1:hV4".

    Raises
    ------
    InputError
        When it is no contrast, one of the regions is not there, or both are the same voxels.
    """
    splits = [(text[: m.start()], text[m.end() :]) for m in re.finditer(":", text)]
    # A colon may belong to a voxel or to the name of an ROI.
    whole = [pair for pair in splits if all(_is_region(brain, one) for one in pair)]
    usual = [pair for pair in splits if pair[0].lstrip("+-") != "voxel"]
    pairs = whole or usual
    if not pairs or not all(one.lstrip("+-") for one in pairs[0]):
        raise InputError(
            f"--contrast {text}: expected two regions, such as +V1:-hV4 (drive the first, suppress "
            "the second) or +V1:+hV4 (drive both)"
        )
    (first, one), (second, other) = (_signed(brain, side) for side in pairs[0])
    if (first is None) is not (second is None):
        raise InputError(
            f"--contrast {text}: expected a sign of both regions or of neither, such as +V1:-hV4 "
            "or V1:hV4"
        )
    regions = [find_region(brain, name, "--contrast") for name in (one, other)]
    if np.array_equal(regions[0].mask, regions[1].mask):
        raise InputError(
            f"--contrast {text}: expected two regions, found the same voxels twice: use --drive or "
            "--suppress"
        )
    return Aim(first or 1, regions[0]), Aim(second or -1, regions[1])


def _signed(brain: Brain, side: str) -> tuple[int | None, str]:
    """Sign and region of one side of a contrast; None where it has no sign."""
    if side[:1] in _SIGNS and side not in brain.rois():
        return _SIGNS[side[:1]], side[1:]
    return None, side


def _is_region(brain: Brain, side: str) -> bool:
    try:
        find_region(brain, _signed(brain, side)[1], "--contrast")
    except InputError:
        return False
    return True
