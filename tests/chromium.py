"""Pages in a real browser: headless Chromium, and what every report must be able to do there.

A test file takes what it needs by name::

    import chromium

    browser, page_of = chromium.browser, chromium.page_of
    check_page = chromium.check_page

    def test_report(page_of, path):
        check_page(page_of(), path)

Its tests are skipped where there is no Chromium, or no playwright to drive it with.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest

# A laptop, half its screen, a phone, and what WCAG 2.2 asks of reflow (1.4.10)
WIDTHS = (1280, 640, 390, 320)
A4 = (680, 1000)  # what the margins leave of the sheet, CSS pixels
_SHRUNK = 1.3  # browsers make pages smaller on paper if a table needs it, Chromium by up to 4/3
_PATIENCE = 30  # seconds for a surface to be drawn: there is no GPU


WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_WEBGL = ("--disable-gpu", "--disable-webgl", "--disable-webgl2", "--disable-3d-apis")


@contextlib.contextmanager
def _started(options):
    """Chromium without a display and without a GPU; skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox", *options])
        yield started
        started.close()


@pytest.fixture(scope="module")
def browser():
    """Chromium that draws WebGL in software."""
    with _started(WEBGL) as started:
        yield started


@pytest.fixture
def page_without_webgl(browser):
    """As `page_of`, of a browser without WebGL, started by the driver of the other."""
    started = browser.browser_type.launch(
        executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
        args=["--no-sandbox", *NO_WEBGL],
    )
    yield from _pages(started)
    started.close()


@pytest.fixture
def page_of(browser):
    """Function that opens a file (or nothing) in a tab of its own; all are closed afterwards."""
    yield from _pages(browser)


def _pages(browser):
    contexts = []

    def open_page(path=None, *, width=1280, height=900, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        if path is not None:
            page.goto(Path(path).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


def check_page(page, path):
    """Open a report in an empty page and assert what every report promises.

    It shows no error and asks for nothing but itself; it can be used on a phone, without a mouse,
    by ear and on paper; what should turn turns.
    """
    faults, asked = [], []
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(Path(path).as_uri())
    check_structure(page)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 844})
        check_width(page)
        check_type(page)
        if width < 500:
            check_cards(page)
    check_contrast(page)
    page.set_viewport_size({"width": 480, "height": 640})  # drawing surfaces takes a while
    for frame in page.locator("iframe").all():
        check_turns(page, frame)
    check_keyboard(page)
    check_print(page)
    assert not faults, faults
    outside = [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))]
    assert not outside, outside


def check_structure(page):
    """What screen readers go by."""
    found = page.evaluate("""() => ({
        lang: document.documentElement.lang,
        title: document.title,
        headings: [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(
            (h) => [Number(h.localName[1]), h.textContent.trim()]),
        landmarks: ["header", "nav", "main", "footer"].map(
            (name) => document.querySelectorAll("body > " + name).length),
        doubled: [...document.querySelectorAll("[id]")].map((e) => e.id).filter(
            (id, i, all) => all.indexOf(id) !== i),
        lost: [...document.querySelectorAll("a[href^='#']")].map((a) => a.hash).filter(
            (hash) => !document.querySelector(hash)),
        nameless: [...document.querySelectorAll(
            "[aria-labelledby], button, iframe, img, [role=region]")].filter((e) =>
            !(e.alt || e.ariaLabel || e.title || e.textContent.trim()
              || document.getElementById(e.getAttribute("aria-labelledby"))?.textContent.trim()))
            .map((e) => e.outerHTML.slice(0, 200)),
        undecoded: [...document.images].filter((i) => !(i.complete && i.naturalWidth))
            .map((i) => i.alt),
        bare: [...document.querySelectorAll("table")].filter((t) => !t.caption?.checkVisibility())
            .length,
        unscoped: document.querySelectorAll("th:not([scope])").length,
        uncaptioned: [...document.querySelectorAll("figure")].filter(
            (f) => !f.querySelector("figcaption")?.textContent.trim()).length,
        free: [...document.querySelectorAll("iframe")].filter(
            (f) => f.getAttribute("sandbox") !== "allow-scripts").length,
    })""")
    assert found["lang"].startswith("en")
    assert found["title"]
    levels = [level for level, _ in found["headings"]]
    assert (levels[0], levels.count(1)) == (1, 1), found["headings"]
    assert all(b - a <= 1 for a, b in pairwise(levels)), found["headings"]
    assert all(text for _, text in found["headings"]), found["headings"]
    assert found["landmarks"] == [1, 1, 1, 1], found["landmarks"]
    for fault in ("doubled", "lost", "nameless", "undecoded"):
        assert found[fault] == [], (fault, found[fault])
    for fault in ("bare", "unscoped", "uncaptioned", "free"):
        assert found[fault] == 0, fault


def check_width(page):
    """The page does not scroll sideways; what does within it can be reached and has a name."""
    found = page.evaluate("""() => ({
        page: [document.documentElement.scrollWidth, innerWidth],
        outside: [...document.querySelectorAll("body *")].filter((e) => {
            const box = e.getBoundingClientRect();
            return box.width && box.right > innerWidth + 1 && !e.closest(".scroll > *")
        }).map((e) => e.outerHTML.slice(0, 200)),
        stuck: [...document.querySelectorAll("body *")].filter((e) =>
            e.scrollWidth > e.clientWidth + 1
            && ["auto", "scroll"].includes(getComputedStyle(e).overflowX)
            && !(e.tabIndex === 0 && e.role === "region")).map((e) => e.outerHTML.slice(0, 200)),
        cut: [...document.querySelectorAll("body *")].filter((e) =>
            e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "hidden")
            .map((e) => e.outerHTML.slice(0, 200)),
    })""")
    assert found["page"][0] <= found["page"][1], found["page"]
    for fault in ("outside", "stuck", "cut"):
        assert found[fault] == [], (fault, found[fault])


def check_type(page):
    """No text is smaller than 12 pixels."""
    small = page.evaluate("""() => {
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
        while (walker.nextNode()) {
            const element = walker.currentNode.parentElement;
            if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
            const size = parseFloat(getComputedStyle(element).fontSize);
            if (size < 12) found.push([size, walker.currentNode.data]);
        }
        return found;
    }""")
    assert not small, small


def check_cards(page):
    """Each row of a table is a card, and each cell beside its name, within the page."""
    found = page.evaluate("""() => {
        const columns = (cell) => [...cell.closest("table").querySelectorAll("thead th")]
            .map((th) => th.textContent.trim());
        const cells = [...document.querySelectorAll("tbody td")];
        return {
            nameless: cells.filter((cell) => {
                const label = getComputedStyle(cell, "::before");
                const name = columns(cell)[cell.cellIndex];
                return label.content !== JSON.stringify(name) || label.display === "none"
                    || parseFloat(label.fontSize) < 12;
            }).map((cell) => cell.outerHTML),
            beyond: cells.filter((cell) => {
                const box = cell.getBoundingClientRect();
                return box.left < 0 || box.right > innerWidth;
            }).map((cell) => cell.outerHTML),
            beside: cells.filter((cell) => {
                const before = cell.previousElementSibling.getBoundingClientRect();
                return before.bottom > cell.getBoundingClientRect().top + 1;
            }).map((cell) => cell.outerHTML),
            headed: [...document.querySelectorAll("thead")].filter((e) => e.checkVisibility())
                .length,
        };
    }""")
    for fault in ("nameless", "beyond", "beside"):
        assert found[fault] == [], (fault, found[fault])
    assert found["headed"] == 0


def check_contrast(page):
    """WCAG AA (1.4.3): 4.5 to 1 for text of any size, with the formula of its glossary."""
    faint = page.evaluate("""() => {
        const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const luminance = ([r, g, b]) =>
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        const behind = (element) => {
            for (let e = element; e; e = e.parentElement) {
                const colour = numbers(getComputedStyle(e).backgroundColor);
                if (colour[3] !== 0) return colour;
            }
            return [255, 255, 255];
        };
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const faint = [];
        while (walker.nextNode()) {
            const element = walker.currentNode.parentElement;
            if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
            const [dark, light] = [numbers(getComputedStyle(element).color), behind(element)]
                .map(luminance).sort((a, b) => a - b);
            const contrast = (light + 0.05) / (dark + 0.05);
            if (contrast < 4.5) faint.push([contrast, walker.currentNode.data]);
        }
        return faint;
    }""")
    assert not faint, faint


_FROM_THE_TOP = """() => {
    scrollTo(0, 0);
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute("tabindex");
}"""


_FOCUS = """() => {
    const e = document.activeElement, { outlineStyle, outlineWidth } = getComputedStyle(e);
    return [e.dataset.place === undefined ? null : Number(e.dataset.place), e.localName,
            outlineStyle === "none" ? 0 : parseFloat(outlineWidth)];
}"""


def check_keyboard(page):
    """The tabulator reaches all that does something, in order, and one sees where it is."""
    assert page.locator("a[href]").first.get_attribute("href") == "#content"  # past the contents
    wanted = page.evaluate("""() => {
        const all = [...document.querySelectorAll("a[href], button, iframe, [tabindex='0']")]
            .filter((e) => e.checkVisibility());
        all.forEach((e, i) => { e.dataset.place = i; });
        return all.length;
    }""")
    page.evaluate(_FROM_THE_TOP)
    reached, outlines = [], []
    for _ in range(3 * wanted + 20):  # frames have stops of their own
        page.keyboard.press("Tab")
        place, kind, outline = page.evaluate(_FOCUS)
        if place is None:  # beyond the last, or a frame is slow to take over
            page.wait_for_timeout(1000)
            place, kind, outline = page.evaluate(_FOCUS)
        if place is None:
            break
        if place not in reached:
            reached.append(place)
            outlines += [outline] if kind != "iframe" else []
    assert reached == list(range(wanted)), (reached, wanted)
    assert min(outlines) >= 2, outlines


def check_turns(page, frame):
    """Dragging turns what is in the frame, and nothing else does."""
    frame.scroll_into_view_if_needed()
    canvas = frame.content_frame.locator("canvas").first
    canvas.wait_for(timeout=1000 * _PATIENCE)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    at_rest = _settled(canvas)
    page.mouse.move(x + box["width"] / 8, y)
    assert _settled(canvas) == at_rest, "it turned without being dragged"
    page.mouse.down()
    page.mouse.move(x - box["width"] / 8, y, steps=2)
    page.mouse.up()
    assert _settled(canvas) != at_rest, "it did not turn"


def _settled(canvas) -> bytes:
    """A screenshot, once two in a row are alike."""
    end, before = time.monotonic() + _PATIENCE, b""
    while time.monotonic() < end:
        now = canvas.screenshot()
        if now == before:
            return now
        before = now
        time.sleep(0.2)
    raise AssertionError("what is in the frame does not come to rest")


def check_print(page):
    """On paper the warning stays, nothing is cut or dark, and still views replace frames."""
    warned = page.locator(".warning").count()
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4[0], "height": A4[1]})
    for frame, still in zip(
        page.locator("iframe").all(), page.locator("div.still img").all(), strict=True
    ):
        assert not frame.is_visible()
        assert still.is_visible()
    assert warned == page.locator(".warning:visible").count() <= 1
    assert not page.locator("button:visible").count()
    look = """(height) => ({
        page: [document.documentElement.scrollWidth, innerWidth],
        cut: [...document.images].filter((i) => i.getBoundingClientRect().height > height)
            .map((i) => i.alt),
        dark: [...document.querySelectorAll("body, body *")].filter((e) => {
            const [r, g, b, a] = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
            return a !== 0 && 0.3 * r + 0.59 * g + 0.11 * b < 180 && e.checkVisibility();
        }).map((e) => e.outerHTML.slice(0, 200)),
    })"""
    found = page.evaluate(look, 0.9 * A4[1])
    assert found["page"][0] <= _SHRUNK * found["page"][1], found["page"]
    assert found["cut"] == found["dark"] == [], found
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="screen")
