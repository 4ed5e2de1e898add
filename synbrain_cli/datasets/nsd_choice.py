"""The choice of data from the Natural Scenes Dataset, and of their preparation."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import sha256
from synbrain_cli.io.prepared import STANDARDIZATIONS
from synbrain_cli.paths import is_there

SPACES = ("func1pt8mm", "func1mm", "fsaverage", "nativesurface")
PREPARATIONS = ("betas_fithrf_GLMdenoise_RR", "betas_fithrf", "betas_assumehrf")
SHORT = {"b3": PREPARATIONS[0], "b2": PREPARATIONS[1], "b1": PREPARATIONS[2]}  # NSD's own names
COUPLED = PREPARATIONS[0]  # ridge regression across trials couples repeats
SPLIT_RULES = ("shared1000", "shared515")


@dataclass(frozen=True)
class Choice:
    """A choice of data from NSD, and of their preparation.

    Attributes
    ----------
    space : str
        One of `SPACES`.
    preparation : str
        One of `PREPARATIONS` (NSD's b3, b2, b1).
    rois : tuple of str
        ROIs, the union of which is the mask. Each is a collection ("nsdgeneral", "streams": all of
        its labels), a label ("V1v", "FFA-1"; "V1" is the union of V1v and V1d), both
        ("streams:ventral"), or a mask file on the grid of the subject.
    standardize : {"session", "train", "none"}
        Standardisation, as in `synbrain_cli.io.prepared_writer.PreparedWriter`.
    split : str
        "shared1000": test images are the 1,000 shared ones. "shared515": test images are the 515
        of them that every subject saw three times; the others are validation images. Otherwise
        the path of a table (`synbrain_cli.datasets.splits.read_split_list`).
    validation_share : float
        Share of validation images among training images, where the split names none (ours).
    seed : int
        Seed of the random choice of validation images.

    Raises
    ------
    InputError
        When an option is unknown, or NSD does not have this combination.
    """

    space: str = SPACES[0]
    preparation: str = PREPARATIONS[0]
    rois: tuple[str, ...] = ("nsdgeneral",)
    standardize: str = "session"
    split: str = SPLIT_RULES[0]
    validation_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--space", self.space, SPACES),
            ("--preparation", self.preparation, PREPARATIONS),
            ("--standardize", self.standardize, STANDARDIZATIONS),
        ):
            if value not in known:
                raise InputError(f"{name} {value}: expected one of {', '.join(known)}")
        if self.space == "func1mm" and self.preparation == "betas_assumehrf":
            raise InputError(
                "--preparation betas_assumehrf: NSD has it for func1pt8mm, not func1mm"
            )
        if self.split not in SPLIT_RULES and not is_there(self.split):
            raise InputError(
                f"--split {self.split}: expected {', '.join(SPLIT_RULES)} or a table with the "
                "columns image and split"
            )

    @property
    def volume(self) -> bool:
        """Whether the space is a volume, not a surface."""
        return self.space.startswith("func")

    def to_dict(self) -> dict[str, Any]:
        """Return the options for the record, with checksums of a split list and of mask files."""
        options = json.loads(json.dumps(asdict(self)))
        options["rois"] = [
            f"{Path(roi).name} (sha256 {sha256(roi)})" if Path(roi).is_file() else roi
            for roi in self.rois
        ]
        if self.split not in SPLIT_RULES:
            options["split"] = f"{Path(self.split).name} (sha256 {sha256(self.split)})"
        return options
