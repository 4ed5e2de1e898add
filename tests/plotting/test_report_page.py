"""The report as a browser shows it, on a screen, on a phone, by ear and on paper."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import chromium
import numpy as np
import pytest
from matplotlib.figure import Figure
from nilearn.datasets import load_fsaverage
from PIL import Image

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.plotting.figure import new_figure
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.report.page import (
    Command,
    Facts,
    Gallery,
    KeyNumber,
    KeyNumbers,
    Live,
    Page,
    Picture,
    Section,
    Table,
    Text,
    figure_png,
    plotted,
    render,
    thumbnail,
)

browser, page_of, check_page = chromium.browser, chromium.page_of, chromium.check_page
page_without_webgl = chromium.page_without_webgl

EVIL = """<script>document.title = "taken"</script>" onerror="document.title = 'taken'".png"""
STILL_CAPTION = "It cannot be turned here."
HASH = "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"
COMMAND = "synbrain synthesize 'my images'  --samples 8\nsynbrain report && echo <done>"
# Stands for a surface: a line that follows the mouse while it is held down.
TURNING = """<!DOCTYPE html><html lang="en"><head><title>A line</title>
<link rel="icon" href="https://example.org/icon.ico"></head>
<body><canvas width="300" height="150"></canvas><button>Back</button><script>
const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
const draw = (x) => { pen.clearRect(0, 0, 300, 150); pen.fillRect(x, 0, 9, 150); };
canvas.onmousemove = (event) => event.buttons && draw(event.offsetX);
draw(40);
</script></body></html>"""


def photograph(n=0, width=300, height=200):
    x = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return np.uint8((x + np.array([0, 40, 5 * n])) % 256)


def plot():
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(9), np.arange(9) ** 2, color="#0072B2")
    axes.set(xlabel="hours", ylabel="r")
    return figure


STILL = Picture(thumbnail(photograph()), "A line at rest", STILL_CAPTION)


def live():
    return Live(TURNING, "A line to move", "Drag it.", STILL)


def wide_table(n_rows=4):
    header = ["region", *(f"score {k}" for k in range(12)), "from"]
    rows = [[f"ROI-{i}", *(f"−0.{i}{k}5" for k in range(12)), "sub-02"] for i in range(n_rows)]
    return Table("Scores of regions", header, rows, note="Of 1,000 images.")


def small_page(**changes):
    plain = Page(
        "Responses of sub-09",
        "What a model of one person expects.",
        "Simulated subject: nobody was measured.",
        [Section("Table", "", [wide_table(), Command(COMMAND)])],
        "synbrain",
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def whole():
    """A page with every kind of block."""
    pictures = [
        Picture(thumbnail(photograph(k)), f"Stimulus {k}", f"image_{'long_' * (k % 5)}{k}.jpg")
        for k in range(50)
    ]
    sections = [
        Section(
            "What was asked",
            "Fifty images.",
            [Gallery(pictures), Facts([("Seed", "0"), (f"images/{EVIL}", HASH)])],
        ),
        Section(
            f"Responses to {EVIL}",
            "Their mean.",
            [
                Picture(figure_png(plot()), "A parabola", "It rises."),
                Picture(thumbnail(photograph()), "A gradient", "It is dark on the left.", False),
                live(),
            ],
        ),
        Section("Accuracy", "", [wide_table(30), Text("These are made up.")]),
        Section("Repeat it", "", [Command(COMMAND), Command("synbrain --help")]),
    ]
    numbers = [KeyNumber(f"a score {k}", f"0.{k}23", f"beside {EVIL} {k}") for k in range(5)]
    return small_page(sections=sections, key_numbers=KeyNumbers("In brief", numbers))


@pytest.fixture(scope="module")
def report(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(whole), encoding="utf-8")
    return path


# In the browser -----------------------------------------------------------------------------------


def test_a_report_keeps_its_promises(page_of, report):
    check_page(page_of(), report)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<main", "<main style='width: 900px'"),
        ('tabindex="0"', ""),
        ("<caption>", "<caption hidden>"),
        ("content: attr(data-label)", "content: none"),
        (".beside { font-size: .8rem", ".beside, p { font-size: .7rem"),
        ("  thead { display: none; }", ""),
        ('scope="row"', ""),
        ("<h2 ", "<h4 "),
        ("--soft: #505050", "--soft: #999"),
        ("outline: 3px", "outline: 0px"),
        ('"use strict";', '"use strict"; console.error("no");'),
        ("<footer>", "<footer><img src='https://example.org/x.png' alt='x'>"),
        ("<footer>", "<footer><a href='#nowhere'>there</a>"),
        ("  .warning { border", "  .warning { display: none; border"),
    ],
)
def test_broken_promises_are_noticed(page_of, tmp_path, before, after):
    """Else the test above would pass whatever the page is like."""
    html = render(small_page())
    assert before in html
    (tmp_path / "report.html").write_text(html.replace(before, after), encoding="utf-8")
    with pytest.raises(AssertionError):
        check_page(page_of(), tmp_path / "report.html")


def test_the_surface_turns(page_of, tmp_path):
    pytest.importorskip("plotly", reason="nilearn draws turning surfaces only beside plotly")
    from nilearn.plotting import view_surf
    from nilearn.surface import SurfaceImage

    mesh = load_fsaverage("fsaverage5")["inflated"]
    data = {h: np.asarray(mesh.parts[h].coordinates[:, 1]) for h in ("left", "right")}
    surface = view_surf(mesh, SurfaceImage(mesh=mesh, data=data), hemi="both", colorbar_fontsize=12)
    live = Live(surface.html, "Made-up map on the inflated cortex", "Drag to turn it.", STILL)
    path = tmp_path / "report.html"
    path.write_text(render(small_page(sections=[Section("Surface", "", [live])])), encoding="utf-8")
    check_page(page_of(), path)


def test_frames_are_filled_when_they_come_near(page_of, tmp_path):
    sections = [Section("First", "", [Text("…")] * 200), Section("Last", "", [live()])]
    path = tmp_path / "report.html"
    path.write_text(render(small_page(sections=sections)), encoding="utf-8")
    page = page_of(path)
    page.wait_for_timeout(300)
    frame = page.locator("iframe")
    assert not frame.content_frame.locator("canvas").count()
    frame.scroll_into_view_if_needed()
    frame.content_frame.locator("canvas").wait_for(timeout=10_000)


def test_the_band_stays_in_view(page_of, report):
    page = page_of(report)
    page.evaluate("scrollTo(0, 3000)")
    box = page.locator(".warning").bounding_box()
    assert (box["x"], box["y"], box["width"]) == (0, 0, 1280)
    assert page.locator(".warning").inner_text() == "Simulated subject: nobody was measured."
    # A section that is jumped to is not hidden by it.
    page.locator("nav a").nth(2).click()
    assert page.locator("#heading-3").bounding_box()["y"] > box["height"]


def test_commands_are_copied_as_they_are(page_of, report):
    page = page_of(report, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy command 1").click()
    page.get_by_text("Copied").wait_for(timeout=5000)
    assert page.evaluate("navigator.clipboard.readText()") == COMMAND


def test_where_there_is_no_clipboard_the_command_is_selected(page_of, report):
    page = page_of()
    page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
        "document.execCommand = () => false;"
    )
    page.goto(report.as_uri())
    page.get_by_role("button", name="Copy command 2").click()
    page.get_by_text("Selected: copy it with").wait_for(timeout=5000)
    assert page.evaluate("getSelection().toString()") == "synbrain --help"


def test_without_scripts_the_still_views_stand_for_what_turns(page_of, report):
    page = page_of(report, java_script_enabled=False)
    assert not page.locator("button:visible").count()
    assert not page.locator("iframe:visible").count()
    assert page.get_by_alt_text("A line at rest").is_visible()
    assert page.get_by_text("It cannot be turned here.").is_visible()
    assert page.get_by_text("synbrain --help").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_without_webgl_the_still_views_stand_for_what_turns(page_without_webgl, report, width):
    page = page_without_webgl(report, width=width)
    assert not page.evaluate("Boolean(document.createElement('canvas').getContext('webgl'))")
    still = page.get_by_alt_text("A line at rest")
    assert still.is_visible()
    assert still.evaluate("(image) => image.complete && image.naturalWidth > 0")
    assert page.get_by_text("It cannot be turned here.").is_visible()
    assert not page.get_by_text("Drag it.").is_visible()
    frame = page.locator("iframe")
    assert not frame.is_visible()
    assert frame.get_attribute("srcdoc") is None  # nothing was loaded to be hidden
    chromium.check_width(page)
    chromium.check_type(page)
    chromium.check_keyboard(page)


def test_with_webgl_only_what_turns_is_shown(page_of, report):
    page = page_of(report)
    assert page.locator("iframe").is_visible()
    assert page.get_by_text("Drag it.").is_visible()
    assert not page.get_by_alt_text("A line at rest").is_visible()
    assert not page.get_by_text("It cannot be turned here.").is_visible()


@pytest.mark.parametrize(("width", "narrow"), [(1280, False), (600, False), (390, True)])
def test_narrow_screens_get_the_rendering_made_for_them(page_of, tmp_path, width, narrow):
    picture = plotted(plot, "A parabola", "It rises.")
    path = tmp_path / "report.html"
    path.write_text(render(small_page(sections=[Section("s", "", [picture])])), encoding="utf-8")
    page = page_of(path, width=width)
    shown = page.get_by_alt_text("A parabola").evaluate("(image) => image.currentSrc")
    assert shown == (picture.narrow_source if narrow else picture.source)
    chromium.check_width(page)


def test_pictures_for_narrow_screens_are_made_in_the_phone_style():
    made = []

    def figure():
        made.append(new_figure(11, 5))
        made[-1].text(0.5, 0.5, "x")
        return made[-1]

    picture = plotted(figure, "x", "")
    wide, narrow = made
    assert wide.get_figwidth() == 11
    assert narrow.get_figwidth() == pytest.approx(3.6)
    assert picture.size == (1210, 550)
    assert picture.narrow_size[0] == pytest.approx(3.6 * 110 * 1.6, abs=1)


def test_names_are_text(page_of, report):
    page = page_of(report)
    assert page.title() == "Responses of sub-09"
    assert page.locator("script").count() == 1
    assert page.locator("dt").nth(1).text_content() == f"images/{EVIL}"
    assert page.locator("#heading-2").text_content() == f"2 Responses to {EVIL}"


# In the text --------------------------------------------------------------------------------------


class _Elements(HTMLParser):
    """Tags and attributes in order."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_untrusted_text_is_escaped_wherever_it_stands():
    evil_picture = Picture(thumbnail(photograph()), EVIL, EVIL)
    blocks = [
        evil_picture,
        Gallery([evil_picture]),
        Table(EVIL, [EVIL, EVIL], [[EVIL, EVIL]], note=EVIL),
        Facts([(EVIL, EVIL)]),
        Command(EVIL),
        Live(TURNING, EVIL, EVIL, evil_picture),
        Text(EVIL),
    ]
    html = render(Page(EVIL, EVIL, EVIL, [Section(EVIL, EVIL, blocks)], EVIL))
    elements = _Elements(html).found
    assert [tag for tag, _ in elements].count("script") == 1
    assert not any("onerror" in attributes for _, attributes in elements)
    assert html.count("document.title = &#34;taken&#34;") >= 20
    images = [attributes for tag, attributes in elements if tag == "img"]
    assert [image["alt"] for image in images] == [EVIL, EVIL, EVIL]


def test_the_file_names_nothing_outside(whole):
    html = render(whole)
    for _, attributes in _Elements(html).found:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), attributes
    assert "url(" not in html
    assert "@import" not in html
    assert "example.org" not in html  # the icon of the frame
    assert "default-src 'none'" in html


def test_the_same_page_gives_the_same_text(whole):
    assert render(whole) == render(whole)


def test_only_simulated_subjects_get_a_band():
    assert "<aside" in render(small_page())
    html = render(small_page(warning=None))
    assert "<aside" not in html
    assert "Warning on the first page" not in html


def test_figures_and_tables_are_counted_through(whole):
    html = render(whole)
    assert re.findall(r"(Figure|Table) (\d+)\.", html) == [
        ("Figure", "1"),
        ("Figure", "2"),
        ("Figure", "3"),
        ("Table", "1"),
    ]
    assert len(re.findall(r'alt="Stimulus \d+"', html)) == 50


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["0.38", "−0.4", "-1e-5"], True),
        (["22,500", "3 %", "16 ms"], True),
        (["0.64 [0.60, 0.69]", "1.2 ± 0.1", "[−0.1, 0.2]"], True),
        (["0.5", "–", "not known"], True),
        (["–", "not known"], False),
        (["sub-01", "sub-02"], False),
        (["0.5", "sub-01"], False),
        (["12345.png", "7.png"], False),
        (["", "1"], True),
    ],
)
def test_which_columns_are_numbers(cells, numeric):
    table = Table("t", ["name", "x"], [["1", cell] for cell in cells])
    assert table.numeric == [True, numeric]
    html = render(small_page(sections=[Section("s", "", [table])]))
    classes = [a.get("class") for tag, a in _Elements(html).found if tag == "td"]
    assert classes == ["number" if numeric else None] * len(cells)
    assert (
        '<th scope="col" role="columnheader">name</th>' in html
    )  # the first column is of names, whatever they are


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"expected 2 cells a row.*found 1"):
        Table("t", ["a", "b"], [["1"]])
    with pytest.raises(InputError, match="expected the bytes of a PNG, JPEG or WebP file"):
        Picture(b"<svg/>", "an image", "")
    with pytest.raises(InputError, match="alternative text"):
        Picture(thumbnail(photograph()), " ", "")
    with pytest.raises(InputTypeError, match="found str"):
        Section("s", "", ["a paragraph"])


# Images -------------------------------------------------------------------------------------------


def test_flatmaps_are_small_and_look_the_same():
    pial = load_fsaverage("fsaverage5")["pial"]
    maps = {h: np.sin(pial.parts[h].coordinates[:, 2] / 9) for h in ("left", "right")}
    maps["right"][pial.parts["right"].coordinates[:, 1] > -20] = np.nan
    labels = Labels("Made up", "z", stimulus=photograph(), note="simulated subject")
    figure = plot_flatmap(maps, labels)
    small = figure_png(figure, dpi=100)
    assert small == figure_png(figure, dpi=100)
    assert len(small) < 200_000
    plain = io.BytesIO()
    figure.savefig(plain, dpi=100)
    with Image.open(io.BytesIO(small)) as image, Image.open(plain) as whole:
        assert image.mode == "P"
        assert image.size == whole.size
        assert set(image.info) <= {"dpi"}  # no date, no version
        drawn, expected = (np.int16(i.convert("RGB")) for i in (image, whole))
    # Dithering moves single pixels; a neighbourhood keeps its colour.
    rows, columns = (n // 4 * 4 for n in drawn.shape[:2])
    error = (drawn - expected)[:rows, :columns].reshape(rows // 4, 4, columns // 4, 4, 3)
    assert np.abs(error.mean((1, 3))).max() < 12
    assert np.abs(error.mean((1, 3))).mean() < 1
    assert (drawn[(expected == 255).all(-1)] == 255).all()


def test_white_stays_white_beside_many_tints():
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for k in range(300):
        axes.plot([0, 1], [k, 290 - k], color=f"C{k % 10}", linewidth=0.4, alpha=0.25)
    with Image.open(io.BytesIO(figure_png(figure))) as image:
        drawn = np.array(image.convert("RGB"))
    assert (drawn[:20] == 255).all()
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100


def test_thumbnails_keep_their_shape():
    small = Picture(thumbnail(photograph(width=1000, height=500)), "x", "")
    assert small.size == (320, 160)
    assert small.source.startswith("data:image/jpeg;base64,")
    assert Picture(thumbnail(photograph(width=30, height=20)), "x", "").size == (30, 20)
    assert Picture(figure_png(plot()), "x", "").size == (1210, 550)
