"""The documentation says what the program does: commands, options, links."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from synbrain_cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = ROOT / "docs/cli-reference.md"
MAKE = runpy.run_path(str(ROOT / "docs/make_reference.py"))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def command_lines():
    """Words of every `synbrain …` in code, and whether in a block, so to be typed as it stands."""
    for page in PAGES:
        if page == GENERATED:  # help, not command lines; its examples are those of the code
            continue
        text = page.read_text("utf-8")
        blocks = [body for language, body in _FENCE.findall(text) if language != "python"]
        spans = re.findall(r"`([^`]+)`", _FENCE.sub("", text))
        lines = [(line, True) for body in blocks for line in body.splitlines()]
        for line, typed in lines + [(span, False) for span in spans]:
            line = " ".join(line.split()).removeprefix("$ ").removeprefix(".venv/bin/")
            if line.startswith("synbrain "):
                words = shlex.split(line, comments=True)
                yield pytest.param(words[1:], typed, id=f"{page.name}: {' '.join(words)}")


def links():
    """Page and target of every relative link."""
    for page in PAGES:
        # Not those of code blocks: brackets mean other things there.
        for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text("utf-8"))):
            if not re.match(r"[a-z]+:", target):
                yield pytest.param(page, target, id=f"{page.name}: {target}")


def section(command):
    """What the reference holds on one command."""
    title = " ".join(("synbrain", *command))
    parts = re.split(r"^## ", GENERATED.read_text("utf-8"), flags=re.MULTILINE)
    return next((p for p in parts if p.splitlines()[0] == title), "")


def test_reference_is_up_to_date():
    text = GENERATED.read_text("utf-8")
    if MAKE["made_with"]() not in text:
        pytest.skip("another version of typer lays out the help differently")
    assert text == MAKE["reference"](), (
        "docs/cli-reference.md is out of date: run `.venv/bin/python docs/make_reference.py`"
    )


@pytest.mark.parametrize("command", list(MAKE["commands"]()), ids=" ".join)
def test_reference_has_every_command_and_option(command):
    found = section(command)
    assert found, "run `.venv/bin/python docs/make_reference.py`"
    options = set(re.findall(r"--[a-z][a-z-]*", MAKE["help_of"](command)))
    assert options <= set(re.findall(r"--[a-z][a-z-]*", found))


@pytest.mark.parametrize(("words", "typed"), list(command_lines()))
def test_command_lines_parse(words, typed):
    command = get_command(cli.app)
    while hasattr(command, "commands"):
        assert words, "a group of commands, without the command"
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if not typed and not words:
        return  # the command's name in a sentence
    # Raises on an unknown option, a missing argument, or a value of the wrong kind; runs nothing.
    command.make_context("synbrain", list(words))


def test_command_lines_are_found():
    lines = {" ".join(parameter.values[0]) for parameter in command_lines()}
    assert {
        "synthesize examples/images --subject 2 --samples 8",
        "adapt --hours 1",
        "evaluate",
        "plot-flatmap",
    } <= lines


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_links_resolve(page, target):
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists()
    assert file.is_relative_to(ROOT), "a link out of the repository"
    if anchor:
        titles = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in slugs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_number_is_left_to_fill_in(page):
    assert not re.findall(r"(?:\{\{|@@)\w*", page.read_text("utf-8"))


def test_the_example_runs(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.root)
    runpy.run_path(str(ROOT / "examples/draws.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "simulated subject 01, 20 draws" in output
    assert re.search(r"^coffee +-?\d+\.\d\d ± \d+\.\d\d", output, re.MULTILINE)
    share = float(re.search(r"repeats of one image: (\S+)", output)[1])
    assert 0.7 < share < 1.4


def test_the_example_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run `make demo` first"):
        runpy.run_path(str(ROOT / "examples/draws.py"), run_name="__main__")
