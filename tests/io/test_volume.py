"""Volumes as they are written."""

from __future__ import annotations

import gzip
import time

import nibabel as nib
import numpy as np
import pytest

from synbrain_cli.errors import SynbrainError
from synbrain_cli.io.volume import save_image, unmask

AFFINE = np.diag([1.8, 1.8, 1.8, 1])


@pytest.fixture
def image(rng):
    mask = rng.random((7, 5, 6)) < 0.4
    values = rng.standard_normal((3, mask.sum())).astype(np.float32)
    return unmask(values, nib.Nifti1Image(mask.astype(np.uint8), AFFINE), description="a test")


def test_a_compressed_volume_is_what_nibabel_would_write(image, tmp_path):
    save_image(image, tmp_path / "ours.nii.gz")
    nib.save(image, tmp_path / "theirs.nii.gz")
    ours, theirs = (tmp_path / f"{name}.nii.gz" for name in ("ours", "theirs"))
    assert gzip.decompress(ours.read_bytes()) == gzip.decompress(theirs.read_bytes())
    np.testing.assert_array_equal(nib.load(ours).get_fdata(), image.get_fdata())
    assert not list(tmp_path.glob(".*"))


def test_the_same_volume_is_the_same_file(image, tmp_path):
    save_image(image, tmp_path / "a.nii.gz")
    time.sleep(1.1)  # gzip may carry the time, in seconds, and the name
    save_image(image, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
def test_other_formats_follow_the_suffix(suffix, tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    save_image(kind(data, AFFINE), tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(nib.load(tmp_path / f"x{suffix}").get_fdata(), data)


def test_where_nothing_can_be_written(image, tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    with pytest.raises(SynbrainError, match="cannot write"):
        save_image(image, tmp_path / "file" / "x.nii.gz")
