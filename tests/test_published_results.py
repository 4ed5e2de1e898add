"""The figures that the documentation gives are those of one run of the demo."""

from __future__ import annotations

import copy
import json
import re
import runpy
from pathlib import Path

import pytest

from synbrain_cli.io.results.evaluation import DrawScore, DrawScores, ResponseScore, ResponseScores

ROOT = Path(__file__).parents[1]
MAKE = runpy.run_path(str(ROOT / "docs/make_results.py"))
SCORES = json.loads(MAKE["EXCERPT"].read_text("utf-8"))
PAGES = {name: (ROOT / name).read_text("utf-8") for name in MAKE["PAGES"]}


NOMINAL = {".50", ".80", ".90", ".95", "1.00"}  # what a calibrated distribution scores


def changed(content):
    """The same scores, of another run."""
    other = copy.deepcopy(content)

    def shift(part):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if isinstance(value, (dict, list)):
                shift(value)
            elif isinstance(value, float) and key != "nominal":
                part[key] = value + 0.123

    shift(other)
    return other


def agreeing(before, after):
    """Numbers with a decimal point that two texts share in one place."""
    numbers = re.compile(r"−?\d*\.?\d+")
    pairs = zip(numbers.findall(before), numbers.findall(after), strict=True)
    return {one for one, two in pairs if one == two and "." in one}


def rows(page, block):
    """Cells of a table, by the label of its row; labels of subjects hold for the rows below."""
    text = re.search(rf"<!-- results: {block} -->(.*?)<!-- end", PAGES[page], re.DOTALL)[1]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("\n")[3:-1]]
    who = ""
    for first, *cells in lines:
        who = first or who
        yield who, cells


def printed(value, digits):
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}").replace("-", "−")


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_those_that_the_script_makes(page):
    assert MAKE["blocks_of"](PAGES[page])
    assert PAGES[page] == MAKE["filled"](PAGES[page], SCORES)


def test_every_block_is_on_a_page_once():
    found = [name for page in PAGES.values() for name in MAKE["blocks_of"](page)]
    assert sorted(found) == sorted([*MAKE["BLOCKS"], *MAKE["LADDERS"]])
    assert sum(page.count("<!-- end of results -->") for page in PAGES.values()) == len(found)


@pytest.mark.parametrize("block", MAKE["BLOCKS"])
def test_another_run_would_change_every_block(block):
    """Or the page would state a figure that it does not take from the scores."""
    make = MAKE["BLOCKS"][block]
    assert agreeing(make(SCORES), make(changed(SCORES))) <= NOMINAL


@pytest.mark.parametrize(("block", "dataset"), MAKE["LADDERS"].items())
def test_every_cell_of_a_ladder_is_taken_from_its_results(block, dataset):
    found = MAKE["read_ladder"](dataset)
    assert not agreeing(MAKE["ladder"](found), MAKE["ladder"](changed(found)))
    names = [cells[0] for _, cells in rows("docs/evaluation.md", block)]
    each = [[*one["rungs"], "ceiling"] for one in found["subjects"].values()]
    assert names == [name for one in each for name in one]


def test_digits_of_the_readme_are_those_of_the_scores():
    """Read from the page by label: not as the script writes them."""
    means = {(who, cells[0]): cells[1:] for who, cells in rows("README.md", "means")}
    subjects = {"subject 1": "sub-01", "subject 2": "sub-02", "one hour of subject 3": MAKE["HOUR"]}
    assert set(means) == {(who, score) for who in subjects for score in ("r", "skill")}
    for who, model in subjects.items():
        for label, score in (("r", "voxelwise_correlation"), ("skill", "skill")):
            values = SCORES[model]["overall"][score]
            low, high = (printed(limit, 3) for limit in values["ci"])
            cells = means[who, label]
            assert cells[0] == f"{printed(values['model'], 3)} ({low}–{high})"
            assert cells[3] == printed(values["linear"], 3)
            assert cells[5] == printed(values["shuffled"], 3)
    draws = dict(rows("README.md", "draws"))
    found = SCORES["sub-01"]["draws"]
    assert draws["90 % intervals cover"][0] == printed(found["coverage_90"]["model"], 3)
    assert draws["CRPS (less is better)"][1] == printed(found["crps"]["linear"], 3)
    assert draws["energy score (less is better)"][3] == printed(
        found["energy_score"]["latent_nf1"], 2
    )


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md", "docs/adaptation.md"])
def test_reliability_is_given_by_all_three_numbers(page):
    model = MAKE["HOUR"] if "adaptation" in page else "sub-01"
    text = " ".join(PAGES[page].split())
    for of in ("model", "test_trials"):
        three = [
            printed(SCORES[model]["draws"][f"ncsnr_{what}"][of], 3)
            for what in ("correlation", "slope", "median_ratio")
        ]
        if of == "model" and page == "README.md":
            expected = "r {}, slope {} and median ratio {}".format(*three)
        else:
            expected = ", ".join(three)
        assert expected in text


def test_the_excerpt_has_fields_of_the_record():
    for model in SCORES.values():
        assert set(model["overall"]) <= set(ResponseScores.__struct_fields__)
        assert set(model["draws"]) <= set(DrawScores.__struct_fields__)
        for values in model["overall"].values():
            assert set(values) <= set(ResponseScore.__struct_fields__)
        assert set(model["draws"]["crps"]) <= set(DrawScore.__struct_fields__)


def test_a_workspace_is_read(tmp_path, capsys):
    more = {"notes": ["n"], "roi": {"V1": {}}, "units": {}}
    for model, scores in SCORES.items():
        folder = tmp_path / f"outputs/{model}_evaluation"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(scores | more))
    assert MAKE["read_workspace"](tmp_path) == SCORES
    (tmp_path / "outputs/sub-02_evaluation/metrics.json").unlink()
    with pytest.raises(SystemExit, match="run `synbrain evaluate --model sub-02` there"):
        MAKE["read_workspace"](tmp_path)
