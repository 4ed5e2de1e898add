"""Styles of figures: sizes and type of what is written, and letters of panels."""

from __future__ import annotations

import itertools
import re
import zlib

import numpy as np
import pytest
import test_baselines as made_up
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from synbrain_cli.errors import InputError
from synbrain_cli.plotting.figure import (
    STYLES,
    current_style,
    figure_style,
    new_figure,
    save_figure,
    style_of,
)
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.flatmap_pair import plot_pair
from synbrain_cli.plotting.labels import Labels

PLOTTED = {  # what the plot commands and the report show
    name: made_up.FIGURES[name]
    for name in ("flatmap", "surface", "draws", "sheet", "rois", "accuracy", "calibration")
}
OF_ONE_PANEL = ("flatmap",)


def made(name, style):
    with figure_style(style):
        return PLOTTED[name]()


def written(figure):
    """Texts that are drawn."""
    return [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]


@pytest.mark.parametrize("name", PLOTTED)
def test_figures_for_a_paper_are_as_wide_as_a_column_with_type_of_five_to_seven_points(
    name, tmp_path
):
    figure = made(name, "paper")
    path = tmp_path / "figure.png"
    save_figure(figure, path)
    with Image.open(path) as picture:
        dpi = picture.info["dpi"]
        width = 25.4 * picture.width / dpi[0]
    assert dpi == pytest.approx((300, 300), abs=0.1)
    assert min(abs(width - 89), abs(width - 183)) < 0.2  # mm
    scale = style_of(figure).scale
    sizes = {scale * t.get_fontsize() for t in written(figure) if t.get_gid() != "letter"}
    # L and R of flatmaps are marks, and may be larger, as letters of panels may
    marks = {scale * t.get_fontsize() for t in written(figure) if t.get_text() in ("L", "R")}
    assert min(sizes) >= 5
    assert max(sizes - marks) <= 7.001
    assert 7 in np.round(sorted(sizes), 3)


@pytest.mark.parametrize("name", PLOTTED)
def test_figures_for_a_talk_fill_a_slide_with_large_type_and_thick_lines(name, tmp_path):
    figure, plain = made(name, "talk"), made(name, "screen")
    save_figure(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        size = np.array(picture.size) / picture.info["dpi"]
    assert size[0] == pytest.approx(40 / 3, abs=0.02)
    if name != "sheet":  # of any number of images
        assert size[1] == pytest.approx(7.5, abs=0.02)
    scale = style_of(figure).scale
    assert min(scale * t.get_fontsize() for t in written(figure)) >= 11.9
    widths = [
        [line.get_linewidth() for line in one.findobj(match=_lines)] for one in (figure, plain)
    ]
    assert scale > 1.3
    if widths[1]:
        assert scale * max(widths[0]) > max(widths[1])


def _lines(artist):
    return type(artist).__name__ == "Line2D"


@pytest.mark.parametrize("name", PLOTTED)
def test_type_can_be_read_on_a_phone(name):
    """346 CSS pixels, as the layout is wide, are shown on 350 or more: 9 points on 12 pixels."""
    figure = made(name, "phone")
    assert figure.get_figwidth() == pytest.approx(3.6)
    assert min(t.get_fontsize() for t in written(figure)) >= 9


def test_hemispheres_are_above_each_other_on_a_phone():
    figure = made("flatmap", "phone")
    left, right = (
        next(a for a in figure.axes if a.get_label() == f"flatmap-{side}")
        for side in ("left", "right")
    )
    assert left.get_position().y0 > right.get_position().y1
    assert left.get_xlim()[1] <= 0 <= right.get_xlim()[0]
    for axes, letter, other in ((left, "L", "R"), (right, "R", "L")):
        said = [t.get_text() for t in axes.texts]
        assert letter in said
        assert other not in said
        assert {"V1", "PPA"} <= set(said)
    assert left.images[-1].get_clim() == right.images[-1].get_clim()


def test_without_a_style_figures_stay_as_they_were_designed(tmp_path):
    figure = made("flatmap", "screen")
    assert figure.get_figwidth() == 11
    save_figure(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width == 2200
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert style_of(Figure()) is STYLES["screen"]


def test_figures_keep_the_style_that_they_were_made_in(tmp_path):
    with figure_style("paper"):
        figure = new_figure(7, 3)
        with figure_style(None) as style:
            assert style is STYLES["paper"]
    assert current_style() is STYLES["screen"]
    save_figure(figure, tmp_path / "figure.png", dpi=100)
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width == pytest.approx(100 * 89 / 25.4, abs=1)


def test_a_style_that_is_not_there():
    with (
        pytest.raises(InputError, match="--style poster: expected one of screen, paper"),
        figure_style("poster"),
    ):
        pass


@pytest.mark.parametrize("style", ["paper", "talk"])
def test_vector_files_have_the_size_of_the_style_and_their_text_its_size(style, tmp_path):
    with figure_style(style):
        figure = new_figure(11, 4)
    scale = style_of(figure).scale
    figure.text(0.5, 0.5, "words", fontsize=12)
    figure.add_axes((0.1, 0.1, 0.8, 0.8))
    inches = scale * figure.get_size_inches()
    for kind in ("svg", "pdf"):
        for copy in range(2):
            save_figure(figure, tmp_path / f"{copy}.{kind}")
        assert (tmp_path / f"0.{kind}").read_bytes() == (tmp_path / f"1.{kind}").read_bytes()
    svg = (tmp_path / "0.svg").read_text()
    found = re.search(
        r'<svg [^>]*width="([\d.]+)pt" height="([\d.]+)pt" viewBox="0 0 ([\d.]+)', svg
    )
    width, height, layout = map(float, found.groups())
    np.testing.assert_allclose((width, height), 72 * inches, rtol=1e-4)
    assert layout == pytest.approx(width / scale, rel=1e-4)
    pdf = (tmp_path / "0.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    np.testing.assert_allclose([float(x) for x in box.groups()], 72 * inches, rtol=1e-4)
    page = b"\n".join(
        zlib.decompressobj().decompress(part)
        for part in re.findall(rb"FlateDecode.*?stream\n(.*?)\nendstream", pdf, re.DOTALL)
    )
    assert re.search(rf"^{scale:.6g}".encode()[:6] + rb"\S* 0 0 \S+ 0 0 cm", page, re.MULTILINE)
    assert b" 12 Tf" in page  # before it is scaled
    assert b"/Subtype /Type0" in pdf or b"/TrueType" in pdf or b"/Type42" in pdf  # kept as type
    # The figure is as before, and can be written again
    save_figure(figure, tmp_path / "after.png", dpi=50)
    with Image.open(tmp_path / "after.png") as picture:
        assert picture.width == pytest.approx(50 * inches[0], abs=1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", PLOTTED)
def test_panels_are_lettered_from_the_upper_left(name, style):
    figure = made(name, style)
    letters = [t for t in figure.findobj(Text) if t.get_gid() == "letter"]
    found = sorted(t.get_text() for t in letters)
    if name in OF_ONE_PANEL:
        assert found == []
        return
    assert found == list("abcdefgh"[: len(found)])
    assert len(found) >= 2
    assert all(t.get_fontweight() == "bold" and t.xy == (0, 1) for t in letters)
    figure.draw_without_rendering()
    boxes = {t.get_text(): t.get_window_extent() for t in letters}
    width, height = figure.bbox.size
    for box in boxes.values():
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    # In the order of reading: each is right of the one before, or below
    for one, other in itertools.pairwise(found):
        assert boxes[other].x0 > boxes[one].x0 + 5 or boxes[other].y1 < boxes[one].y0


@pytest.mark.parametrize("style", [None, *STYLES])
def test_titles_of_two_maps_do_not_meet(style):
    """As accuracy and ceiling of reliable voxels are called."""
    kept = "sub-02; ncsnr ≥ 0.2 in 15,512 of 15,724 voxels"
    titles = (
        f"prediction of 1,000 test images (3,000 trials), {kept}",
        f"noise ceiling of averages of 3 repeats, {kept}",
    )
    with figure_style(style):
        figure = plot_pair([made_up.maps()] * 2, titles, Labels("t", "r", note="simulated"))
    figure.draw_without_rendering()
    found = {" ".join(t.get_text().split()): t.get_window_extent() for t in written(figure)}
    one, other = (found[title] for title in titles)
    assert not one.overlaps(other)
    for box in (one, other):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height


def test_names_and_notes_do_not_meet_on_a_phone():
    labels = Labels(
        "a title that is long enough for several lines of a phone", "z", note="simulated"
    )
    with figure_style("phone"):
        maps = made_up.maps()
        figure = plot_flatmap(maps, labels)
    figure.draw_without_rendering()
    title, note = (next(t for t in figure.texts if t.get_gid() == gid) for gid in ("title", "note"))
    assert "\n" in title.get_text()
    assert not title.get_window_extent().overlaps(note.get_window_extent())
