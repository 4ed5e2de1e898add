"""Splits are by image, stay what they were, and a list that fits nothing is told as such."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbrain_cli.datasets.splits import (
    check_splits,
    draw_images,
    read_split_list,
    split_trials,
)
from synbrain_cli.errors import InputError, MissingError

NAMES = [f"nsd{i:05d}" for i in range(3000)]
names = st.lists(st.text("abc01.-", min_size=1, max_size=6), max_size=30)
shares = st.floats(0.01, 0.5)

# --------------------------------------------------------------------------------- draws


@given(one=names, more=names, share=shares, seed=st.integers(0, 5))
def test_more_images_never_move_one_that_was_there(one, more, share, seed):
    before = draw_images(one, share, seed)
    after = draw_images([*more, *one], share, seed)
    assert after & set(one) == before


@given(one=names, shares=st.tuples(shares, shares), seed=st.integers(0, 5))
def test_a_larger_share_keeps_the_images_of_a_smaller(one, shares, seed):
    assert draw_images(one, min(shares), seed) <= draw_images(one, max(shares), seed)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_the_share_drawn_is_about_the_share_asked(share, seed):
    n, sd = len(NAMES), np.sqrt(share * (1 - share) / len(NAMES))
    assert abs(len(draw_images(NAMES, share, seed)) / n - share) < 4 * sd


@pytest.mark.parametrize("other", [{"seed": 1, "what": ""}, {"seed": 0, "what": "test"}])
def test_draws_of_another_seed_or_purpose_are_independent(other):
    one, two = draw_images(NAMES, 0.3, 0), draw_images(NAMES, 0.3, **other)
    assert one != two
    both = 0.3**2 * len(NAMES)
    assert abs(len(one & two) - both) < 4 * np.sqrt(both)


def test_a_draw_is_the_same_on_every_machine():
    """Of hashes of names, not of the process: a model's test images are these for ever."""
    assert draw_images(NAMES[:20], 0.2, 0) == {"nsd00000", "nsd00012", "nsd00015"}
    assert draw_images(NAMES[:20], 0.2, 0, "test") == {
        "nsd00008",
        "nsd00011",
        "nsd00012",
        "nsd00019",
    }


# -------------------------------------------------------------------------------- trials


@settings(max_examples=200)
@given(
    shown=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    test=st.sets(st.integers(0, 12)),
    validation=st.sets(st.integers(0, 12)),
    share=shares,
)
def test_no_image_is_on_two_sides(shown, test, validation, share):
    shown = np.array([f"image{i}" for i in shown])
    test, validation = ({f"image{i}" for i in some} for some in (test, validation))
    split = split_trials(shown, test, validation, share=share)
    table = pd.DataFrame({"image": shown, "split": split})
    assert (table.groupby("image")["split"].nunique() == 1).all()
    assert set(split) <= {"train", "val", "test"}
    assert (split == "test").tolist() == [image in test for image in shown]
    if validation:
        assert set(shown[split == "val"]) == validation & set(shown) - test
    else:
        assert set(shown[split == "val"]) == draw_images(set(shown) - test, share, 0)


def test_validation_is_drawn_from_what_is_not_tested():
    shown = np.repeat(NAMES[:500], 3)
    split = split_trials(shown, set(NAMES[:100]), share=0.1)
    drawn = set(shown[split == "val"])
    assert not drawn & set(NAMES[:100])
    assert 20 < len(drawn) < 65


@pytest.mark.parametrize("lacking", ["train", "val", "test"])
def test_a_split_without_images_is_told_with_what_to_do(lacking):
    split = np.array([s for s in ("train", "val", "test", "train") if s != lacking])
    with pytest.raises(InputError, match=f"no {lacking} image among the [23] images .* --test"):
        check_splits(split, np.arange(len(split)).astype(str), "pass a larger --test")


def test_a_whole_split_is_fine():
    check_splits(np.array(["train", "val", "test"]), np.array(["a", "b", "c"]), "")


# ---------------------------------------------------------------------------------- list

SHOWN = np.array(["a", "a", "b", "c", "face.03", "d"])


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("split.tsv", "image\tsplit\na\ttest\nb\tval\nc\ttrain\nnever shown\ttest\n"),
        ("split.csv", "image,split\na,test\nb,val\n"),
        ("split.csv", "\ufeffimage,split\r\na,test\r\nb,val\r\n"),  # as Excel writes it
        ("split.tsv", "image\tsplit\nstimuli/a.png\ttest\nb.JPG\tval\n"),
        ("split.tsv", "split\timage\ntest\ta\nvalidation\tb\n"),
        ("split.tsv", "image\tsplit\na\ttest\na\ttest\nb\tval\n"),
        # The table of trials itself, in which other columns differ from row to row.
        ("trials.tsv", "image\trepeat\tsplit\na\t1\ttest\na\t2\ttest\nb\t1\tval\nc\t1\ttrain\n"),
    ],
)
def test_a_list_names_test_and_validation_images(tmp_path, name, text):
    assert read_split_list(write(tmp_path / name, text), SHOWN) == ({"a"}, {"b"})


def test_a_dot_in_a_name_is_no_suffix(tmp_path):
    path = write(tmp_path / "split.tsv", "image\tsplit\nface.03\ttest\na\ttest\n")
    assert read_split_list(path, SHOWN)[0] == {"face.03", "a"}
    path = write(tmp_path / "split.tsv", "image\tsplit\nface.03.png\ttest\n")
    assert read_split_list(path, SHOWN)[0] == {"face.03"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image\tset\na\ttest\n",
            r"expected the column split, found image, set .separated by tabs.: rename",
        ),
        ("image|split\na|test\n", r"expected the column image, found image\|split.*by tabs"),
        (
            "image\tsplit\na\ttset\nb\ttraining\n",
            "row 2: expected train, val, test in the column split, found 'tset'",
        ),
        ("image\tsplit\na\ttest\na\ttrain\n", "the column split puts a in two splits: keep one"),
        ("image\tsplit\na.png\ttest\nimages/a\tval\n", "the column split puts a in two splits"),
        (
            "image\tsplit\nx\ttest\na\tval\n",
            "none of the images with test .* was shown .* such as a",
        ),
        ("image\tsplit\n", "none of the images with test in the column split was shown"),
        ("", "expected a table"),
    ],
)
def test_a_list_that_fits_nothing_says_what_it_has(tmp_path, text, message):
    path = write(tmp_path / "split.tsv", text)
    with pytest.raises(InputError, match=message) as raised:
        read_split_list(path, SHOWN)
    assert str(path) in str(raised.value)


def test_a_missing_list_is_missing(tmp_path):
    with pytest.raises(MissingError, match=r"split\.tsv does not exist"):
        read_split_list(tmp_path / "split.tsv", SHOWN)
