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


@given(more=names, n=st.integers(10, 600), seed=st.integers(0, 5))
def test_more_images_change_only_the_end_of_the_selection(more, n, seed):
    one = set(NAMES[:n])
    before = draw_images(one, 0.1, seed)
    after = draw_images(one | set(more), 0.1, seed) & one
    assert before <= after or after <= before
    assert len(before ^ after) <= len(set(more))


@given(
    n=st.integers(1, 3000), share=st.floats(0.01, 0.5), seed=st.integers(0, 5), what=st.text("ab")
)
def test_a_share_is_an_exact_count_and_two_at_least(n, share, seed, what):
    drawn = draw_images(NAMES[:n], share, seed, what)
    assert drawn <= set(NAMES[:n])
    assert len(drawn) == min(n, max(2, int(share * n + 0.5)))


@pytest.mark.parametrize(("share", "count"), [(0.1, 4), (0.15, 6), (0.2, 8), (0.01, 2)])
def test_forty_images_give_the_number_asked_whatever_the_seed(share, count):
    assert {len(draw_images(NAMES[:40], share, seed)) for seed in range(30)} == {count}


def test_no_share_draws_nothing():
    assert draw_images(NAMES[:40], 0.0, 0) == set()


@given(one=names, shares=st.tuples(shares, shares), seed=st.integers(0, 5))
def test_a_larger_share_keeps_the_images_of_a_smaller(one, shares, seed):
    assert draw_images(one, min(shares), seed) <= draw_images(one, max(shares), seed)


@pytest.mark.parametrize("other", [{"seed": 1, "what": ""}, {"seed": 0, "what": "test"}])
def test_draws_of_another_seed_or_purpose_are_independent(other):
    one, two = draw_images(NAMES, 0.3, 0), draw_images(NAMES, 0.3, **other)
    assert one != two
    both = 0.3**2 * len(NAMES)
    assert abs(len(one & two) - both) < 4 * np.sqrt(both)


def test_a_draw_is_the_same_on_every_machine():
    """Of hashes of names, not of the process: a model's test images are these for ever."""
    assert draw_images(NAMES[:20], 0.2, 0) == {"nsd00000", "nsd00012", "nsd00015", "nsd00019"}
    assert draw_images(NAMES[:20], 0.2, 0, "test") == {
        "nsd00008",
        "nsd00011",
        "nsd00012",
        "nsd00019",
    }
    many = sorted(draw_images(NAMES[:600], 0.1, 0))
    assert (len(many), many[0], many[-1]) == (60, "nsd00056", "nsd00580")


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


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ("val val test test", "no training image among the 4 images"),
        ("train train test test", "no validation image among the 4 images"),
        ("train train val test test", "1 validation image among the 5 images"),
        ("train train val val test", "1 test image among the 5 images"),
        ("train val", "1 training and 1 validation and no test image among the 2 images"),
    ],
)
def test_a_split_with_fewer_than_two_images_is_told_with_what_to_do(split, told):
    split = np.array(split.split())
    shown = np.arange(len(split)).astype(str)
    with pytest.raises(InputError, match=f"{told} shown: expected 2 or more .* 6 in all: pass"):
        check_splits(split, shown, "pass a larger --test")
    with pytest.raises(InputError, match=told):  # images count, not trials
        check_splits(np.repeat(split, 5), np.repeat(shown, 5), "pass a larger --test")


def test_a_whole_split_is_fine():
    split = np.repeat(["train", "val", "test"], 2)
    check_splits(split, np.array(list("abcdef")), "")


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
