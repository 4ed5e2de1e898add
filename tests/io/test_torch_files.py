"""Files of ``torch.save`` are read whole, as data: records, storages, kinds of tensors."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from synbrain_cli.checkpoints import load_checkpoint, plain_weights
from synbrain_cli.errors import InputError, MissingError

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1000), "c": torch.zeros(3).half()}


@pytest.fixture
def path(tmp_path):
    torch.save({"model": WEIGHTS, "epoch": 3}, tmp_path / "last.pth")
    return tmp_path / "last.pth"


def rewrite(path, change, **options):
    """Write every record of an archive again, as ``change(name, content)`` gives it."""
    old = shutil.copy(path, path.with_suffix(".old"))
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(path, "w", **options) as target:
        for name in source.namelist():
            content = change(name, source.read(name))
            if content is not None:
                target.writestr(name, content)


@pytest.mark.parametrize("mapped", [True, False])
def test_what_was_saved_is_read(path, mapped):
    found = load_checkpoint(path, mapped=mapped)
    assert found["epoch"] == 3
    for name, value in WEIGHTS.items():
        torch.testing.assert_close(found["model"][name], value, rtol=0, atol=0)


def test_every_flipped_bit_of_a_record_is_noticed(path):
    """In numbers and names; elsewhere (padding) it changes nothing."""
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        try:
            found = load_checkpoint(path)
        except InputError:
            noticed += 1
        else:
            for name, value in WEIGHTS.items():
                assert torch.equal(found["model"][name], value)
    assert noticed > 4000 / 37


@pytest.mark.parametrize("keep", [0, 4, 3999])
def test_a_storage_that_was_cut_short_does_not_go_on_in_its_neighbour(path, keep):
    rewrite(path, lambda name, x: x[:keep] if name.endswith("/data/1") else x)
    with pytest.raises(InputError, match=f"expected 4000 bytes of numbers .* found {keep}"):
        load_checkpoint(path)


def test_a_storage_that_is_missing_is_named(path):
    rewrite(path, lambda name, x: None if name.endswith("/data/1") else x)
    with pytest.raises(InputError, match="data/1, found none"):
        load_checkpoint(path)


def test_compressed_records_are_refused(path):
    rewrite(path, lambda name, x: x, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="found the compressed"):
        load_checkpoint(path)


def test_nothing_is_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "proof"), "w")

    torch.save({"model": Harm()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="nothing of the file was run"):
        load_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "proof").exists()


def test_no_file(tmp_path):
    with pytest.raises(MissingError, match=r"gone\.pth does not exist"):
        load_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(InputError, match="found a folder"):
        load_checkpoint(tmp_path)


VIEWS = {
    "parameter": nn.Parameter(torch.arange(4.0)),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "offset": torch.arange(9.0)[5:],
    "half": torch.arange(4.0).bfloat16(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_parameters_and_views_are_plain_weights(tmp_path, name):
    torch.save({"model": {"w": VIEWS[name]}}, tmp_path / "x.pth")
    found = plain_weights(tmp_path, "model", load_checkpoint(tmp_path / "x.pth")["model"])["w"]
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), VIEWS[name].detach().float().numpy())


OTHERS = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty(3, device="meta"),
    "whole numbers": lambda: torch.arange(3),
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "overlapping": lambda: torch.ones(1).expand(10**12),
    "infinite": lambda: torch.tensor([1, torch.inf]),
    "a list": lambda: [1.0, 2.0],
    "none": lambda: None,
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore")
def test_other_values_are_refused_in_one_line(tmp_path, name):
    torch.save({"model": {"w": OTHERS[name]()}}, tmp_path / "x.pth")
    with pytest.raises(InputError) as caught:
        plain_weights(tmp_path, "model", load_checkpoint(tmp_path / "x.pth")["model"])
    assert "\n" not in str(caught.value)


def test_names_are_text(tmp_path):
    with pytest.raises(InputError, match="expected names of weights in model, found the int 3"):
        plain_weights(tmp_path, "model", {3: torch.ones(2)})
