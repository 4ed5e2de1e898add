"""The documentation says what the program does: commands, options, files, Python API, links."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from synbrain_cli import cli
from synbrain_cli.io import berg, bundle, prepared, responses
from synbrain_cli.io.results import augmentation, comparison, evaluation, learning_curve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MORE_PAGES = [
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "examples", "weights")),
]
GENERATED = ROOT / "docs/cli-reference.md"
API = ROOT / "docs/api.md"
MAKE = runpy.run_path(str(ROOT / "docs/make_reference.py"))
MAKE_API = runpy.run_path(str(ROOT / "docs/make_api.py"))
# Top folders and files of the repository: what begins so in backticks is a path in it.
OF_THE_REPOSITORY = ("benchmarks", "docs", "examples", "synbrain_cli", "tests", "weights/README.md")
# Folders of the package: `io/bundle.py` is short for `synbrain_cli/io/bundle.py`.
OF_THE_PACKAGE = tuple(p.name for p in (ROOT / "synbrain_cli").iterdir() if p.is_dir())

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
    for page in PAGES + MORE_PAGES:
        # Not those of code blocks: brackets mean other things there.
        for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text("utf-8"))):
            if not re.match(r"[a-z]+:", target):
                yield pytest.param(page, target, id=f"{page.name}: {target}")


def repository_paths():
    """Page and path of everything in backticks that looks like a path of the repository."""
    for page in PAGES + MORE_PAGES:
        text = _FENCE.sub("", page.read_text("utf-8"))
        spans = [word for span in re.findall(r"`([^`]+)`", text) for word in span.split()]
        for path in dict.fromkeys(spans):
            if re.search(r"[^\w./-]", path) or "/" not in path:
                continue  # a pattern, or a name
            if path.startswith(OF_THE_REPOSITORY) or path.startswith(OF_THE_PACKAGE):
                yield pytest.param(path, id=f"{page.name}: {path}")


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


def test_api_page_is_up_to_date():
    assert API.read_text("utf-8") == MAKE_API["page"](), (
        "docs/api.md is out of date: run `.venv/bin/python docs/make_api.py`"
    )


@pytest.mark.parametrize("name", [name for name, _ in MAKE_API["listed"]()])
def test_api_is_documented(name):
    assert MAKE_API["find"](name).__doc__, "a public function without a docstring"


def test_examples_of_the_api_compile():
    blocks = re.findall(r"^```python\n(.*?)^```", API.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(MAKE_API["SECTIONS"])
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


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
        if words[0].startswith("-"):
            break  # an option of the group itself: `prepare --verify`
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


@pytest.mark.parametrize("path", list(repository_paths()))
def test_paths_in_backticks_exist(path):
    places = (ROOT, ROOT / "synbrain_cli", ROOT / "examples")
    assert any((place / path).exists() for place in places)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_names_of_code_exist(name):
    """Functions and records that these pages name; anything in backticks that looks like one."""
    code = [p for f in ("synbrain_cli", "tests", "docs") for p in (ROOT / f).rglob("*.py")]
    known = {word for p in code for word in (*re.findall(r"\w+", p.read_text("utf-8")), p.stem)}
    spans = re.findall(r"`([^`]+)`", _FENCE.sub("", (ROOT / name).read_text("utf-8")))
    named = {word for span in spans for word in re.findall(r"\b[A-Za-z_]\w+\b", span)}
    looks_like_code = {w for w in named if "_" in w.strip("_") or re.search(r"[a-z][A-Z]", w)}
    assert not looks_like_code - known


def test_commands_of_the_program_are_in_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    for command in get_command(cli.app).commands:
        assert f"synbrain {command}" in text, command


GLOSSARY = (
    "ncsnr, noise ceiling, betas, repeat, standardisation, unexplained signal, trial noise, "
    "readout, bundle, prepared subject, workspace, tokens, encoder, latent, posterior, S2N mapper, "
    "BrainVAE, draw, sampling, coverage, PIT, CRPS, energy score, RSA, CKA, "
    "two-way identification, shared core, source map, learning curve, signal, shared or fresh"
)


@pytest.mark.parametrize("term", re.split(r", (?!shared or)", GLOSSARY))
def test_glossary_has_the_terms(term):
    glossary = (ROOT / "docs/glossary.md").read_text("utf-8")
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text("utf-8")
    assert term.lower() in re.findall(r"^## (.+)$", glossary.lower(), re.MULTILINE)


def test_glossary_is_in_order():
    terms = re.findall(r"^## (.+)$", (ROOT / "docs/glossary.md").read_text("utf-8"), re.MULTILINE)
    assert terms == sorted(terms, key=str.lower)


RECORDS = (
    *(bundle.BundleConfig, bundle.TrainingRecord, bundle.Adaptation, bundle.ReadoutSummary),
    *(bundle.TransferConfig, bundle.Origin, bundle.StageHistory),
    *(evaluation.EvaluationRecord, evaluation.ResponseScores, evaluation.ResponseScore),
    *(evaluation.RetrievalScores, evaluation.RetrievalScore),
    *(comparison.ComparedRow, comparison.RowTraining, learning_curve.LearningCurve),
    *(learning_curve.CurvePoint, learning_curve.CurveFit, augmentation.AugmentedDecoder),
    *(
        responses.ResponseSettings,
        responses.ResponseSidecar,
        responses.MapSidecar,
        responses.SequenceSettings,
        responses.SequenceSidecar,
        responses.SegmentationSidecar,
        berg.BergCard,
        prepared.PreparedDescription,
    ),
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_file_format_names_every_field(record):
    page = (ROOT / "docs/file-format.md").read_text("utf-8")
    missing = [name for name in record.__struct_encode_fields__ if f"`{name}`" not in page]
    missing = [name for name in missing if not name.endswith("_ci")]  # "each with `…_ci`"
    assert not missing


def test_file_format_names_every_file(trained, subject, store):
    page = (ROOT / "docs/file-format.md").read_text("utf-8")
    folders = (subject.folder, store.stores[0].folder, trained.weights / "sub-01")
    names = {path.name for folder in folders for path in folder.iterdir()}
    assert not {name for name in names if f"`{name}`" not in page}


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
