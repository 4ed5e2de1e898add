"""Choice of the damage to a file: by its structure, its bytes or its place in the file system."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from damaged_arrays import damage_npy, damage_safetensors, damage_zip
from damaged_images import (
    damage_gifti,
    damage_hdf5,
    damage_image,
    damage_mat,
    damage_mgh,
    damage_nifti,
)
from damaged_texts import ESCAPES, damage_json, table_mutator
from mutations import (
    FILE_SYSTEM,
    Damage,
    Mutation,
    Rng,
    Victim,
    as_mutator,
    damage_bytes,
    inside_gzip,
    one_of,
)


def _markdown(data: bytes, rng: Rng) -> Damage:
    what = one_of(rng, (ESCAPES, "\0", "x" * 100_000, "é\ud800", "<script>"))
    return f"{what[:20]!r} at the end", data + what.encode("utf-8", "surrogatepass"), False


_json, _zip, _npy_file = as_mutator(damage_json), as_mutator(damage_zip), as_mutator(damage_npy)
_image = (damage_image,)
STRUCTURED: dict[str, tuple[Callable[[Victim, Rng], Mutation], ...]] = {
    ".json": (_json,),
    ".tsv": (table_mutator("\t"),),
    ".csv": (table_mutator(","),),
    ".npy": (_npy_file,),
    ".npz": (_zip,),
    ".pt": (_zip,),
    ".pth": (_zip,),
    ".safetensors": (as_mutator(damage_safetensors),),
    ".nii": (as_mutator(damage_nifti),),
    ".nii.gz": (as_mutator(inside_gzip(damage_nifti)),),
    ".mgh": (as_mutator(damage_mgh),),
    ".mgz": (as_mutator(inside_gzip(damage_mgh)),),
    ".gii": (as_mutator(damage_gifti),),
    **dict.fromkeys((".hdf5", ".h5"), (damage_hdf5,)),
    ".mat": (damage_mat,),
    ".md": (as_mutator(_markdown),),
    **dict.fromkeys((".png", ".jpg", ".tif", ".webp", ".gif", ".bmp"), _image),
}


def kind_of(path: Path) -> str:
    """Suffix by which mutators are chosen."""
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def mutate(victim: Victim, rng: Rng) -> Mutation:
    """Damage a file: mostly by its structure, else its bytes or its place in the file system."""
    draw = rng.random()
    structured = STRUCTURED.get(kind_of(victim.path))
    if structured and draw < 0.6:
        try:
            return one_of(rng, structured)(victim, rng)
        except (ValueError, KeyError, OSError, struct.error, zipfile.BadZipFile):
            pass  # empty or not what its name says: bytes are all there is
    if draw < 0.85:
        return damage_bytes(victim, rng)
    return one_of(rng, FILE_SYSTEM)(victim, rng)
