"""Contact sheets: every picture with its name and score, in every style, nothing cut off."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from synbrain_cli.errors import InputError
from synbrain_cli.plotting.contact_sheet import FAR, Picture, plot_contact_sheet
from synbrain_cli.plotting.figure import figure_style
from synbrain_cli.plotting.labels import Labels

LABELS = Labels(
    "sub-01: large expected response of FFA-1, 1,000 images", "percent", note="simulated"
)


def pictures(n, is_far=False):
    """Pictures of other shapes and names of other lengths."""
    rng = np.random.default_rng(n)
    return [
        Picture(
            rng.integers(0, 255, (40 + 20 * (k % 2), 50, 3)).astype(np.uint8),
            f"a-picture-with-a-name-{'that-is-long-' * k}{k}",
            f"{k / 3:.2f} ({k / 3 - 1:.2f} to {k / 3 + 1:.2f})",
            is_far,
        )
        for k in range(n)
    ]


@pytest.mark.parametrize("style", [None, "paper", "talk", "phone"])
def test_all_are_shown_beside_each_other_within_the_figure(style):
    groups = [("Chosen", pictures(7)), ("Opposite", pictures(3))]
    with figure_style(style):
        figure = plot_contact_sheet(groups, LABELS)
    renderer = figure.canvas.get_renderer()
    whole = figure.bbox
    axes = figure.axes
    assert len(axes) == 10
    boxes = []
    for one in axes:
        (caption,) = one.texts
        text = caption.get_window_extent(renderer)
        picture = one.get_window_extent(renderer)
        assert abs(picture.width - picture.height) < 1
        assert text.y1 <= picture.y0 + 1
        assert text.x1 <= picture.x1 + 1
        boxes += [picture, text]
    headings = [text.get_window_extent(renderer) for text in figure.texts]
    for k, box in enumerate(boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1  # noqa: PT018
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1  # noqa: PT018
        others = [*boxes[k + 1 :], *headings]
        assert not any(overlap(box, other) for other in others), k


def overlap(one, other):
    """Whether two boxes share more than a line of pixels."""
    return (
        min(one.x1, other.x1) - max(one.x0, other.x0) > 1
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    )


def test_the_largest_centred_square_is_shown_and_long_names_lose_their_middle():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    name = "first-" + "x" * 200 + "-last"
    figure = plot_contact_sheet([("Chosen", [Picture(pixels, name, "0.1")])], LABELS)
    (axes,) = figure.axes
    assert (axes.images[0].get_array() == 200).all()
    shown = axes.texts[0].get_text().splitlines()[0]
    assert shown.startswith("first-")
    assert shown.endswith("-last")
    assert "…" in shown


def test_pictures_beyond_the_range_of_training_have_a_frame():
    groups = [("Chosen", pictures(2, is_far=True)), ("Opposite", pictures(2))]
    figure = plot_contact_sheet(groups, LABELS)
    framed = [axes.spines["left"].get_visible() for axes in figure.axes]
    assert framed == [True, True, False, False]
    assert figure.axes[0].spines["left"].get_edgecolor()[:3] == pytest.approx(to_rgb(FAR))
    assert any("red frames" in text.get_text() for text in figure.texts)


def test_an_empty_sheet_is_refused():
    with pytest.raises(InputError, match="expected one picture or more, found none"):
        plot_contact_sheet([("Chosen", [])], LABELS)
