"""Files of tokens that users computed: any format, rows that belong to images, faults in a line."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.token_files import TokenFile, is_token_file

NAMES = ["a", "b", "c.d", "e"]


def values(shape=(4, 3, 2), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write(folder, kind, tokens):
    """A file of a kind, and how it is named on the command line."""
    path = folder / f"clip.{kind}"
    if kind == "npy":
        np.save(path, tokens)
    elif kind in ("h5", "hdf5"):
        with h5py.File(path, "w") as file:
            file["layers/six"] = tokens
    else:
        save_file({"six": torch.from_numpy(tokens)}, path)
    return path


@pytest.mark.parametrize("kind", ["npy", "h5", "hdf5", "safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_format_is_read_alike(kind, dtype, tmp_path):
    tokens = values().astype(np.float16).astype(dtype)
    file = TokenFile.parse(str(write(tmp_path, kind, tokens)))
    assert (file.spec, file.token_shape, len(file)) == ("tokens:clip", (3, 2), 4)
    assert file.precision == ("fp16" if dtype == "float16" else "float32")
    rows = [3, 0, 1, 1]
    found = file.read(rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tokens[rows].astype(np.float32))
    np.save(tmp_path / "same.npy", tokens.astype(np.float32))
    same = TokenFile("clip", tmp_path / "same.npy").of_images(NAMES, "names")
    assert file.of_images(NAMES, "names").identity == same.identity


def test_bfloat16_as_float32(tmp_path):
    save_file({"x": torch.tensor(values()).bfloat16()}, tmp_path / "b.safetensors")
    found = TokenFile("b", tmp_path / "b.safetensors").read([0, 1, 2, 3])
    np.testing.assert_array_equal(found, torch.tensor(values()).bfloat16().float().numpy())


def test_features_are_one_token(tmp_path):
    np.save(tmp_path / "f.npy", values((4, 7)))
    file = TokenFile("f", tmp_path / "f.npy")
    assert file.token_shape == (1, 7)
    np.testing.assert_array_equal(file.read([2])[0, 0], values((4, 7))[2])


@given(order=st.permutations(range(4)), changed=st.integers(0, 3))
def test_the_checksum_is_of_names_and_numbers(tmp_path_factory, order, changed):
    """Not of the order of rows; another number or another name is another band."""
    folder = tmp_path_factory.mktemp("sum")
    np.save(folder / "x.npy", values())
    known = TokenFile("x", folder / "x.npy").of_images(NAMES, "names").identity
    np.save(folder / "y.npy", values()[order])
    shuffled = TokenFile("x", folder / "y.npy").of_images([NAMES[i] for i in order], "names")
    assert shuffled.identity == known
    other = values()
    other[changed, 1, 1] += 1e-3
    np.save(folder / "z.npy", other)
    file = TokenFile("x", folder / "z.npy")
    assert file.of_images(NAMES, "names").identity["weights"] != known["weights"]
    renamed = [*NAMES[:changed], "new", *NAMES[changed + 1 :]]
    file = TokenFile("x", folder / "x.npy")
    assert file.of_images(renamed, "names").identity["weights"] != known["weights"]


@pytest.mark.parametrize(
    "text",
    [
        "trial\timage\n1\te.png\n2\tc.d.png\n3\tb.png\n4\ta.jpg\n",
        "e.png\nc.d\nb\na.png\n",
        "\ufeffimage\r\ne\r\nc.d\r\nb\r\na\r\n",
    ],
)
def test_rows_are_named_by_the_table_beside_the_file(text, tmp_path):
    np.save(tmp_path / "x.npy", values())
    (tmp_path / "x.tsv").write_text(text, "utf-8", newline="")
    rows = TokenFile("x", tmp_path / "x.npy").of_images(["not", "asked"], "names")
    assert rows.images == ("e", "c.d", "b", "a")
    assert rows.rows_of(["a", "folder/b.png", "c.d", "c.d.png"]) == [3, 2, 1, 1]


def test_rows_are_named_by_hdf5_itself(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["one/tokens"], file["one/image"] = values(), [f"{n}.png" for n in NAMES[::-1]]
        file["two/tokens"] = values()
    rows = TokenFile.parse(f"{tmp_path}/x.h5::one/tokens").of_images([], "names")
    assert rows.images == tuple(NAMES[::-1])
    two = TokenFile.parse(f"x={tmp_path}/x.h5::two/tokens").of_images(NAMES, "names")
    assert two.images == tuple(NAMES)


def test_folders_tell_images_of_one_name_apart(tmp_path):
    np.save(tmp_path / "x.npy", values())
    (tmp_path / "x.tsv").write_text("faces/1.png\nhouses/1.png\nfaces/2.png\n3\n")
    rows = TokenFile("x", tmp_path / "x.npy").of_images([], "names")
    assert rows.rows_of(["/data/houses/1.png", "faces/1", "2", "any/3.png"]) == [1, 0, 2, 3]
    with pytest.raises(InputError, match="several rows are of 1, in different folders"):
        rows.rows_of(["1.png"])
    with pytest.raises(MissingError, match=r"no tokens of 1 of 2 images \(first: 9\)"):
        rows.rows_of(["2", "9"])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (values().astype(np.int32), "expected tokens in float16, float32 or float64, found int32"),
        (values((4,)), r"\(n_images, n_features\), found \(4,\)"),
        (values((4, 2, 2, 3)), "found .* join the two axes of the positions"),
        (values((0, 2, 2)), "expected tokens of images, found none"),
        (values((4, 0, 2)), r"found \(4, 0, 2\)"),
        (np.array(["x"] * 4), "expected tokens in float16, float32 or float64"),
        (np.array([{}] * 4, object), "truncated or damaged, or not a file of tokens"),
    ],
)
def test_other_arrays_are_refused(tokens, message, tmp_path):
    np.save(tmp_path / "x.npy", tokens, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        len(TokenFile("x", tmp_path / "x.npy"))


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN or infinity in row 3"), (1e300, "beyond float32 in row 3")]
)
def test_numbers_that_are_none_are_named(value, message, tmp_path):
    tokens = values().astype(np.float64)
    tokens[2, 0, 1] = value
    np.save(tmp_path / "x.npy", tokens)
    rows = TokenFile("x", tmp_path / "x.npy").of_images(NAMES, "names")
    with pytest.raises(InputError, match=message):
        _ = rows.identity


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        (
            None,
            NAMES[:3],
            "a row for each of names, 3, in the order of their sorted names, found 4",
        ),
        ("a\nb\nc\n", NAMES, "a name for each of the 4 rows"),
        ("a\nb\nc\na.png\n", NAMES, r"a\.png names rows 1 and 4: expected every image once"),
        ("x\ty\n1\t2\n", NAMES, "a table with the column image, or a list of names"),
    ],
)
def test_images_and_rows_that_do_not_fit(text, names, message, tmp_path):
    np.save(tmp_path / "x.npy", values())
    if text:
        (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        TokenFile("x", tmp_path / "x.npy").of_images(names, "names")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip.txt", "expected a file of tokens, one of .npy"),
        ("=clip.npy", "expected FILE or NAME=FILE"),
        ("a@3=clip.npy", "use letters, digits"),
        ("a+b=clip.npy", "use letters, digits"),
        ("clip.npy::six", "a .npy file holds one array"),
    ],
)
def test_names_of_files(text, message):
    with pytest.raises(InputError, match=message):
        TokenFile.parse(text)


def test_one_of_several_arrays_is_named(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["one"], file["two"] = values(), values()
    with pytest.raises(InputError, match=r"found 2 \(one, two\): name one, .*x\.h5::ARRAY"):
        len(TokenFile("x", tmp_path / "x.h5"))
    with pytest.raises(InputError, match="no array three: it has one, two"):
        len(TokenFile("x", tmp_path / "x.h5", "three"))
    assert len(TokenFile("x", tmp_path / "x.h5", "two")) == 4


@pytest.mark.parametrize("kind", ["npy", "h5", "safetensors"])
def test_truncated_files_are_named(kind, tmp_path):
    path = write(tmp_path, kind, values((40, 30, 20)))
    whole = path.read_bytes()
    for n in (0, 5, len(whole) // 3, len(whole) - 900):
        path.write_bytes(whole[:n])
        with pytest.raises(SynbrainError, match=f"clip.{kind}"):
            TokenFile("x", path).read([0, 39])


def test_what_is_a_file_of_tokens():
    assert all(map(is_token_file, ["x.npy", "x.H5", "x.h5::layer", "y/x.safetensors"]))
    assert not any(map(is_token_file, ["x.png", "images", "x.tsv"]))
