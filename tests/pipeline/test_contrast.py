"""`synbrain contrast` and `synbrain localize categories`: files, records, figures, faults."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from PIL import Image
from typer.testing import CliRunner

from synbrain_cli import cli, contrast, power
from synbrain_cli.brain import load_model
from synbrain_cli.errors import InputError
from synbrain_cli.experiments.categories import fit_categories
from synbrain_cli.experiments.contrast import ContrastSettings
from synbrain_cli.experiments.power import Experiment
from synbrain_cli.pipeline.contrast import how_to_control
from synbrain_cli.run import RunContext

RUN = RunContext(progress=QUIET)
WORDS = ["--model", "sub-01", "--permutations", "100", "-q", "--workspace"]


@pytest.fixture(scope="module")
def conditions(tmp_path_factory):
    """Coarse and fine gratings, and noise: told apart by Gabor filters."""
    folder, rng = tmp_path_factory.mktemp("conditions"), np.random.default_rng(0)
    columns = np.mgrid[:96, :96][1]
    for name, cycles in (("coarse", 3), ("fine", 18), ("noise", None)):
        (folder / name).mkdir()
        for k in range(6):
            wave = np.sin(2 * np.pi * (cycles or 1) * columns / 96 + rng.uniform(0, 6))
            if cycles is None:
                wave = rng.uniform(-1, 1, (96, 96))
            pixels = 128 + rng.uniform(40, 110) * wave
            grey = np.repeat(pixels[..., None], 3, 2).astype(np.uint8)
            Image.fromarray(grey).save(folder / name / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def brain(trained):
    return load_model(trained.weights / "sub-01", "cpu")


@pytest.fixture(scope="module")
def typed(trained, conditions, tmp_path_factory):
    """The folder that the command writes, and what it prints."""
    folder = tmp_path_factory.mktemp("out") / "contrast"
    words = ["contrast", str(conditions / "coarse"), str(conditions / "fine"), *WORDS]
    words += [str(trained.root), "--output", str(folder)]
    words += ["--experiment", "trials=8,sessions=2,simulations=20"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return folder, done.stdout


@pytest.fixture(scope="module")
def found(brain, conditions):
    settings = ContrastSettings(n_permutations=100)
    return contrast(brain, str(conditions / "coarse"), str(conditions / "fine"), settings, RUN)


def test_files_hold_what_the_function_returns(typed, found, brain):
    folder, _ = typed
    table = pd.read_csv(folder / "voxels.tsv", sep="\t")
    for column in ("difference", "se_images", "se_model", "se_trials", "t", "scrambled"):
        np.testing.assert_allclose(table[column], found.table[column], atol=2e-4)
    regions = pd.read_csv(folder / "regions.tsv", sep="\t")
    assert list(regions["region"]) == list(found.regions)
    np.testing.assert_allclose(regions["difference"], found.region_table["difference"], atol=1e-4)
    record = json.loads((folder / "contrast.json").read_text())
    assert record["conditions"] == ["coarse", "fine"]
    assert record["n_images"] == [6, 6]
    assert record["regions"]["all"]["difference"] == pytest.approx(
        float(found.region_table["difference"][0]), abs=1e-6
    )
    assert record["power"]["sessions"] == 2
    prefix = "sub-01/func/sub-01_contrast-coarseMinusfine"
    inside = np.asarray(nib.load(brain.folder / "mask.nii.gz").dataobj) > 0
    for name, values in (("difference", found.difference), ("t", found.test.t)):
        image = nib.load(folder / f"{prefix}_stat-{name}_statmap.nii.gz")
        np.testing.assert_allclose(image.get_fdata()[inside], values, rtol=1e-4, atol=1e-5)
        assert (folder / f"{prefix}_hemi-L_space-fsaverage5_stat-{name}_statmap.func.gii").exists()
    thresholded = nib.load(folder / f"{prefix}_stat-significant_statmap.nii.gz").get_fdata()[inside]
    np.testing.assert_array_equal(thresholded != 0, found.significant & (found.test.z != 0))
    power_map = nib.load(folder / f"{prefix}_stat-power_statmap.nii.gz").get_fdata()
    assert 0 <= power_map.min() <= power_map.max() <= 1
    for figure in ("effects", "power", "sub-01_contrast-coarseMinusfine_stat-difference_flatmap"):
        assert Image.open(folder / f"{figure}.png").size[0] > 500


def test_the_screen_names_every_source(typed):
    folder, printed = typed
    assert "coarse (6 images) − fine (6)" in printed
    head = next(line for line in printed.splitlines() if line.startswith("region"))
    for column in ("images", "model", "trials", "adjusted", "scrambled", "power", "80 %"):
        assert column in head
    assert "note: The effect is largest in" in printed or "note: No region differs" in printed
    assert "its encoder has no weights that could be random" in printed
    assert printed.rstrip().endswith(str(folder))
    assert max(map(len, printed.split("\nnote")[0].splitlines())) < 125


def test_shuffled_conditions_lose_the_effect(brain, conditions, found):
    """Gratings of two frequencies differ in early areas; halves of each do not."""
    paths = sorted(conditions.glob("coarse/*.png")) + sorted(conditions.glob("fine/*.png"))
    settings = ContrastSettings(n_permutations=100, controls=False)
    shuffled = contrast(brain, paths[::2], paths[1::2], settings, RUN)
    strongest = np.abs(found.test.t).max()
    assert strongest > 2 * np.abs(shuffled.test.t).max()
    assert found.significant.any()
    assert not shuffled.significant.any()


def test_the_other_way_round_is_the_negative(brain, conditions, found):
    settings = ContrastSettings(n_permutations=100, controls=False)
    other = contrast(brain, str(conditions / "fine"), str(conditions / "coarse"), settings, RUN)
    np.testing.assert_allclose(other.difference, -found.difference, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(other.errors.model, found.errors.model, rtol=1e-4)
    np.testing.assert_allclose(other.test.t, -found.test.t, rtol=1e-3, atol=1e-4)


def test_results_are_objects(found):
    assert set(found.to_nifti()) == {"difference", "t", "z", "significant"}
    figure = found.plot("difference")
    assert figure.axes
    with pytest.raises(InputError, match="what: expected one of difference, t, z, significant"):
        found.plot("power")
    simulated = power(found, Experiment(trials=8, n_simulated=20), RUN)
    assert list(simulated.table.columns) == ["region", "trials", "power", "low", "high"]
    assert simulated.plot().axes
    assert simulated.to_nifti().shape == found.to_nifti()["t"].shape
    low, high = simulated.needed_interval.T
    known = np.isfinite(simulated.needed)
    assert (low[known] <= simulated.needed[known]).all()
    assert (high[known] >= simulated.needed[known]).all()


def test_the_same_command_gives_the_same_files(typed, trained, conditions, tmp_path):
    folder, _ = typed
    words = ["contrast", str(conditions / "coarse"), str(conditions / "fine"), *WORDS]
    words += [str(trained.root), "--output", str(tmp_path / "again")]
    words += ["--experiment", "trials=8,sessions=2,simulations=20"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    for name in ("regions.tsv", "voxels.tsv", "power.tsv", "power_images.tsv"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["coarse"], "expected two conditions"),
        (["coarse", "fine", "noise"], "expected two folders of images, or one table, found 3"),
        (["coarse", "away"], "expected a folder of images for each condition"),
        (["coarse", "fine", "--experiment", "20"], "expected trials=20,sessions=1"),
        (["coarse", "fine", "--alpha", "2"], "--alpha 2: expected"),
        (["coarse", "fine", "--subject", "2"], "sub-01"),  # the model named is of another subject
    ],
)
def test_faults_are_one_line(trained, conditions, words, message, tmp_path):
    paths = [str(conditions / one) if one[0] in "cfna" else one for one in words]
    done = CliRunner().invoke(
        cli.app, ["contrast", *paths, *WORDS, str(trained.root), "-o", str(tmp_path / "out")]
    )
    assert done.exit_code != 0
    said = done.output + str(done.exception)
    assert message in said or (words == ["coarse"] and "different names" in said)
    assert not (tmp_path / "out").exists()


def test_how_a_control_with_random_weights_is_made(brain):
    class Default:
        name, subject = "sub-01", "01"

        class config:
            encoder = "gabor + efficientnet@3,4,5 + efficientnet:112@5 + pixels"

    said = how_to_control(Default)
    assert (
        "--encoder gabor --encoder timm:tf_efficientnet_lite2/random@3,4,5 "
        "--encoder timm:tf_efficientnet_lite2/random:112@5 --encoder pixels"
    ) in said
    assert "--name sub-01_random-weights" in said
    assert "no weights that could be random" in how_to_control(brain)


# ------------------------------------------------------------------------------- categories


def test_categories_as_typed(trained, conditions, brain, tmp_path):
    folder = tmp_path / "categories"
    words = ["localize", "categories", str(conditions), *WORDS, str(trained.root)]
    done = CliRunner().invoke(cli.app, [*words, "--output", str(folder), "--no-controls"])
    assert done.exit_code == 0, (done.output, done.exception)
    record = json.loads((folder / "categories.json").read_text())
    assert list(record["categories"]) == ["coarse", "fine", "noise"]
    settings = ContrastSettings(n_permutations=100, controls=False)
    given = {name: conditions / name for name in record["categories"]}
    found = fit_categories(brain, given, settings, RUN)
    table = pd.read_csv(folder / "voxels.tsv", sep="\t", keep_default_na=False)
    assert table["preferred"].tolist() == found.table["preferred"].tolist()
    assert set(table["preferred"]) <= {"coarse", "fine", "noise", ""}
    auc = pd.read_csv(folder / "regions.tsv", sep="\t")
    np.testing.assert_allclose(auc["auc"], found.auc["auc"], atol=1e-4)
    assert auc["auc"].between(0, 1).all()
    # Each against all others: t of "coarse" is that of its images against the rest
    others = sorted(conditions.glob("fine/*.png")) + sorted(conditions.glob("noise/*.png"))
    alone = contrast(brain, conditions / "coarse", others, settings, RUN)
    np.testing.assert_allclose(found.contrasts["coarse"].test.t, alone.test.t, rtol=1e-3, atol=1e-4)
    assert (folder / "sub-01/func/sub-01_contrast-fineMinusothers_stat-t_statmap.nii.gz").exists()
    assert "coarse" in done.stdout
    with pytest.raises(InputError, match="what: expected one of preferred, coarse, fine, noise"):
        found.plot("faces")


def test_of_two_categories_one_is_the_others_rest(brain, conditions):
    settings = ContrastSettings(n_permutations=100, controls=False)
    given = {name: conditions / name for name in ("coarse", "fine")}
    found = fit_categories(brain, given, settings, RUN)
    for name, other in (("coarse", "fine"), ("fine", "coarse")):
        own = found.auc[found.auc["category"] == name].set_index("region")["auc"]
        opposite = found.auc[found.auc["category"] == other].set_index("region")["auc"]
        np.testing.assert_allclose(own, 1 - opposite, atol=1e-6)
