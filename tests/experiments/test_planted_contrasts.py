"""Contrasts on planted models: tests, errors by source, controls, power; bad input."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import QUIET
from PIL import Image
from scipy import stats

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.experiments.conditions import read_categories, read_conditions
from synbrain_cli.experiments.contrast import Contrast, ContrastSettings, Shown
from synbrain_cli.experiments.controls import low_level_statistics, phase_scrambled
from synbrain_cli.experiments.power import Experiment, glm_contrast, power, trials_needed
from synbrain_cli.experiments.predicted import Predicted
from synbrain_cli.experiments.verdict import say_verdict
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.similar_images import root_of
from synbrain_cli.run import RunContext

N_VOXELS = 40
REGION = np.arange(N_VOXELS) < 20


def planted_readout(signal=0.3, noise=1.0):
    """Independent unexplained signal and noise, normal."""
    readout = Readout.gaussian(np.full(N_VOXELS, noise))
    arrays = readout.arrays() | {"signal_private": np.full(N_VOXELS, signal**0.5, np.float32)}
    return Readout.from_arrays(arrays)


def planted_brain(readout=None):
    return SimpleNamespace(
        name="planted",
        subject="01",
        unit="percent signal change",
        n_voxels=N_VOXELS,
        response_sd=np.full(N_VOXELS, 2.0, np.float32),
        distribution=SimpleNamespace(readout=readout or planted_readout()),
        rois=lambda: {"V1": REGION},
    )


def contrast_of(means, n_first, settings=None, brain=None, shared=None, shown=None):
    n = len(means)
    predicted = Predicted(
        brain or planted_brain(),
        means.astype(np.float32),
        None,
        np.eye(n) if shared is None else shared,
        np.zeros(n),
        list(map(str, range(n))),
    )
    settings = settings or ContrastSettings(n_permutations=500, controls=False)
    shown = shown or {}
    return Contrast(
        predicted.brain, ("a", "b"), settings, Shown(predicted, **shown), n_first, seed=3
    )


def test_difference_and_t_are_those_of_a_two_sample_test(rng):
    means = rng.normal(size=(25, N_VOXELS))
    found = contrast_of(means, 10)
    np.testing.assert_allclose(
        found.difference, 2 * (means[:10].mean(0) - means[10:].mean(0)), rtol=1e-5
    )
    expected = stats.ttest_ind(means[:10], means[10:])
    np.testing.assert_allclose(found.test.t, expected.statistic, rtol=1e-4)
    np.testing.assert_allclose(found.test.p, expected.pvalue, rtol=1e-4)
    np.testing.assert_allclose(2 * stats.norm.sf(np.abs(found.test.z)), found.test.p, rtol=1e-6)
    assert (np.sign(found.test.z) == np.sign(found.difference)).all()
    region = found.region_table.set_index("region").loc["V1"]
    own = 2 * means[:, REGION].mean(1)
    assert region["difference"] == pytest.approx(own[:10].mean() - own[10:].mean(), rel=1e-5)
    assert region["t"] == pytest.approx(stats.ttest_ind(own[:10], own[10:]).statistic, rel=1e-4)


@pytest.mark.parametrize("correction", ["fwe", "fdr"])
def test_maps_of_the_same_condition_twice_are_rarely_significant(correction, rng):
    """In 5 % of maps or fewer, to the binomial interval of 200 of them."""
    settings = ContrastSettings(correction, n_permutations=200, controls=False)
    smooth = rng.normal(size=(8, N_VOXELS))  # voxels are correlated
    wrong = [
        contrast_of(rng.normal(size=(16, 8)) @ smooth, 8, settings).significant.any()
        for _ in range(200)
    ]
    assert stats.binomtest(sum(wrong), 200, 0.05, alternative="greater").pvalue > 0.005
    effect = np.where(np.arange(16)[:, None] < 8, 6.0, 0.0) * REGION
    found = contrast_of(rng.normal(size=(16, N_VOXELS)) + effect, 8, settings)
    assert found.significant[REGION].all()


def test_each_source_of_uncertainty_is_as_planted(rng):
    """Over new images, new unexplained signals, and new trials."""
    n, signal, noise, sd = 12, 0.3, 1.0, 0.7
    found = contrast_of(sd * rng.normal(size=(2 * n, N_VOXELS)), n)
    errors = found.errors
    np.testing.assert_allclose(errors.images.mean(), 2 * sd * (2 / n) ** 0.5, rtol=0.1)
    np.testing.assert_allclose(errors.model, 2 * (signal * 2 / n) ** 0.5, rtol=1e-4)
    np.testing.assert_allclose(errors.trials, 2 * (noise * 2 / n) ** 0.5, rtol=1e-4)
    region = found.region_table.set_index("region").loc["V1"]
    assert region["se_model"] == pytest.approx(2 * (signal * 2 / n / 20) ** 0.5, rel=1e-4)
    assert region["se_trials"] == pytest.approx(2 * (noise * 2 / n / 20) ** 0.5, rel=1e-4)
    # Errors that all images of a condition share do not average out
    shared = np.kron(np.eye(2), np.ones((n, n)))
    together = contrast_of(found.predicted.means, n, shared=shared)
    np.testing.assert_allclose(together.errors.model, 2 * (signal * 2) ** 0.5, rtol=1e-4)
    # … and those that both conditions share cancel
    cancelled = contrast_of(found.predicted.means, n, shared=np.ones((2 * n, 2 * n)))
    np.testing.assert_allclose(cancelled.errors.model, 0, atol=1e-3)


def test_regions_whose_voxels_err_together_are_less_sure(rng):
    signal = LowRank(np.full((N_VOXELS, 1), 0.5, np.float32), np.full(N_VOXELS, 0.1, np.float32))
    arrays = planted_readout().arrays()
    arrays |= {"signal_loadings": signal.loadings, "signal_private": signal.private}
    brain = planted_brain(Readout.from_arrays(arrays))
    found = contrast_of(rng.normal(size=(20, N_VOXELS)), 10, brain=brain)
    expected = 2 * ((0.25 + 0.01 / 20) * 2 / 10) ** 0.5
    assert found.region_table.set_index("region").loc["V1", "se_model"] == pytest.approx(
        expected, rel=1e-4
    )


# ------------------------------------------------------------------------------------ controls


def test_scrambled_pictures_keep_their_spectrum_and_nothing_else(rng):
    rows = np.mgrid[:64, :96][0]
    image = (100 + 40 * np.sin(rows / 5)[..., None] + np.array([0, 10, 20])).astype(np.uint8)
    image[20:40, 30:60] = (200, 50, 120)
    scrambled = phase_scrambled(image, rng)
    assert scrambled.shape == image.shape
    assert scrambled.dtype == np.uint8
    before, after = (np.abs(np.fft.fft2(one[..., 1].astype(float))) for one in (image, scrambled))
    assert np.corrcoef(np.log(before + 100).ravel(), np.log(after + 100).ravel())[0, 1] > 0.9
    assert abs(np.corrcoef(image.ravel(), scrambled.ravel())[0, 1]) < 0.4
    np.testing.assert_allclose(scrambled.mean((0, 1)), image.mean((0, 1)), atol=6)


def test_low_level_statistics_are_what_they_say():
    columns = np.mgrid[:128, :128][1]

    def grating(cycles, contrast):
        wave = 128 + contrast * np.sin(2 * np.pi * cycles * columns / 128)
        return np.repeat(wave[..., None], 3, 2).astype(np.uint8)

    coarse, fine, faint = (
        low_level_statistics([grating(*one)])[0] for one in ((4, 100), (32, 100), (4, 20))
    )
    assert np.exp(coarse[2]) == pytest.approx(4, rel=0.2)
    assert np.exp(fine[2]) == pytest.approx(32, rel=0.2)
    assert coarse[1] == pytest.approx(5 * faint[1], rel=0.1)
    assert coarse[0] == pytest.approx(0.5, abs=0.01)
    assert coarse[3] == 0
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(low_level_statistics([red])[0], [0.299, 0, 0, 1], atol=1e-6)


def test_an_effect_of_luminance_does_not_survive_and_another_does(rng):
    n = 40
    condition = np.arange(2 * n) < n
    luminance = 0.5 * condition + 0.4 * rng.normal(size=2 * n)
    low_level = np.column_stack([luminance, *rng.normal(size=(3, 2 * n))])
    noise = 0.1 * rng.normal(size=(2 * n, N_VOXELS))
    settings = ContrastSettings(n_permutations=500)
    said = {}
    for name, drive in (("luminance", luminance), ("condition", condition.astype(float))):
        shown = {
            "low_level": low_level,
            "scrambled": (noise + (name == "luminance") * drive[:, None]).astype(np.float32),
        }
        found = contrast_of(drive[:, None] + noise, n, settings, shown=shown)
        row = found.region_table.set_index("region").loc["V1"]
        assert row["p_corrected"] < 0.01
        assert (row["p_adjusted"] < 0.05) == (name == "condition")
        said[name] = say_verdict(found, found.region_table)
    assert "it does not survive" in said["luminance"]
    assert "phase-scrambled images keep it" in said["luminance"]
    assert "it survives" in said["condition"]
    assert "phase-scrambled images lose it" in said["condition"]
    # Where luminance is the condition, nothing can be said
    shown["low_level"] = np.column_stack([condition, *rng.normal(size=(3, 2 * n))]).astype(float)
    found = contrast_of(condition[:, None] + noise, n, settings, shown=shown)
    assert found.confounded > 0.99
    assert "cannot be told apart" in say_verdict(found, found.region_table)
    nothing = contrast_of(noise, n)
    assert say_verdict(nothing, nothing.region_table).startswith(
        "No region differs between a and b"
    )
    plain = contrast_of(condition[:, None] + noise, n)
    assert say_verdict(plain, plain.region_table).endswith("no controls were run.")
    table = found.region_table.assign(random_weights=found.region_table["difference"] * 0.9)
    assert "an encoder of random weights keeps it (90%)" in say_verdict(found, table)


# --------------------------------------------------------------------------------------- power


@pytest.mark.parametrize("sessions", [1, 2, 4])
def test_the_general_linear_model_is_that_of_least_squares(sessions, rng):
    n_trials = 8
    first, second = rng.normal(size=(2, n_trials, 3))
    t, free = glm_contrast(first, second, sessions)
    session = np.repeat(np.arange(sessions), n_trials // sessions)
    constants = np.tile(np.eye(sessions)[session], (2, 1))
    condition = np.r_[np.ones(n_trials), np.zeros(n_trials)]
    design = np.column_stack([condition, constants])
    both = np.concatenate([first, second])
    weights, left, *_ = np.linalg.lstsq(design, both, rcond=None)
    assert free == 2 * n_trials - sessions - 1
    inverse = np.linalg.inv(design.T @ design)[0, 0]
    np.testing.assert_allclose(t, weights[0] / np.sqrt(left / free * inverse), rtol=1e-8)


def test_power_is_that_of_the_noncentral_t(rng):
    """No image varies and all is noise: the closed form."""
    effect = 0.5
    brain = planted_brain(planted_readout(signal=0.0, noise=1.0))
    means = np.where(np.arange(40)[:, None] < 20, effect, 0.0) * np.ones(N_VOXELS)
    found = power(
        contrast_of(means, 20, brain=brain),
        Experiment(trials=32, n_simulated=400),
        RunContext(seed=1, progress=QUIET),
    )
    assert found.trials[found.planned] == 32
    for row, n in enumerate(found.trials):
        free, shift = 2 * n - 2, effect * (n / 2) ** 0.5
        expected = stats.nct.sf(stats.t.ppf(0.975, free), free, shift)
        assert found.of_voxels[row].mean() == pytest.approx(expected, abs=0.02), n
    needed = found.needed[list(found.contrast.regions).index("V1")]
    # The mean of 20 voxels of independent noise: 20 times the effect's square
    assert needed == pytest.approx(4.4, abs=0.5)
    assert (
        (found.table["low"] <= found.table["power"]) & (found.table["power"] <= found.table["high"])
    ).all()
    assert set(found.image_table["images"]) == {2, 4, 8, 16, 20}


def test_few_images_repeated_often_find_what_is_theirs_alone(rng):
    """Conditions do not differ but for their images: the model of trials takes these as given."""
    brain = planted_brain(planted_readout(signal=0.0, noise=0.3))
    means = rng.normal(size=(60, 1)) * np.ones(N_VOXELS)
    means[:30] -= means[:30].mean()
    means[30:] -= means[30:].mean() + 1e-3
    found = power(
        contrast_of(means, 30, brain=brain),
        Experiment(trials=60, n_simulated=200),
        RunContext(seed=2, progress=QUIET),
    )
    assert found.images == (2, 4, 8, 16, 30)
    by_images = found.by_images[:, 1]
    assert by_images[0] > 0.25
    assert by_images[-1] < 0.05
    assert (np.diff(by_images) < 0.05).all()


def test_trials_are_read_from_the_curve():
    trials = (4, 8, 16, 32)
    assert trials_needed(trials, np.array([0.9, 1, 1, 1])) == 4
    assert np.isnan(trials_needed(trials, np.array([0.1, 0.2, 0.3, 0.79])))
    assert trials_needed(trials, np.array([0.2, 0.7, 0.9, 1])) == pytest.approx(8 * 2**0.5)


def test_a_root_of_correlations_keeps_variances(rng):
    correlations = np.corrcoef(rng.normal(size=(5, 50)))
    root = root_of(correlations)
    np.testing.assert_allclose(root @ root.T, correlations, atol=1e-5)
    indefinite = np.array([[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1]])
    np.testing.assert_allclose(np.square(root_of(indefinite)).sum(1), 1, rtol=1e-5)


# ------------------------------------------------------------------------------------ bad input


@pytest.fixture
def folders(tmp_path, rng):
    for name, n in (("faces", 3), ("houses", 3), ("one", 1)):
        (tmp_path / name).mkdir()
        for k in range(n):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
    return tmp_path


def test_conditions_are_read_from_folders_or_a_table(folders):
    read = read_conditions([folders / "faces", folders / "houses"])
    assert [(one.name, len(one)) for one in read] == [("faces", 3), ("houses", 3)]
    rows = [f"{c}/{k}.png\t{c[0]}" for c in ("faces", "houses") for k in range(3)]
    (folders / "table.tsv").write_text("image\tcondition\n" + "\n".join(rows) + "\n")
    again = read_conditions([folders / "table.tsv"])
    assert [one.name for one in again] == ["f", "h"]
    assert again[0].images.digest(1) == read[0].images.digest(1)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (["faces", "one"], InputError, r"one: expected 2 images or more, found 1"),
        (["faces", "faces"], InputError, r"expected two or more of different names, found faces"),
        (["faces"], InputError, r"expected two or more of different names"),
        (["faces", "away"], MissingError, r"away: expected a folder of images for each condition"),
        (["faces", "same"], InputError, r"same/\S+: the same picture as faces/\S+: expected every"),
        (["faces", "empty"], MissingError, r"empty: expected images .* found none"),
    ],
)
def test_conditions_that_cannot_be_compared_are_refused(folders, given, kind, message):
    (folders / "empty").mkdir()
    (folders / "same").mkdir()
    for k in (0, 1):
        (folders / f"same/{k}.png").write_bytes((folders / f"faces/{k}.png").read_bytes())
    with pytest.raises(kind, match=message) as raised:
        read_conditions([folders / name for name in given])
    assert "\n" not in str(raised.value)


def test_categories_are_folders_in_a_folder(folders):
    (folders / "floc").mkdir()
    for name in ("faces", "houses"):
        (folders / name).rename(folders / "floc" / name)
    assert [one.name for one in read_categories([folders / "floc"])] == ["faces", "houses"]
    with pytest.raises(InputError, match="found no folder in it"):
        read_categories([folders / "one"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"correction": "none"}, "--correction none: expected one of fwe, fdr"),
        ({"alpha": 0.0}, "--alpha 0: expected more than 0"),
        ({"n_permutations": 10}, "--permutations 10: expected 20 or more"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ContrastSettings(**settings)


@pytest.mark.parametrize(
    "text", ["20", "trials=", "trials=2.5", "repeats=3", "trials=20;sessions=1"]
)
def test_an_experiment_that_cannot_be_read_is_refused(text):
    with pytest.raises(InputError, match=r"--experiment .*expected trials=20,sessions=1"):
        Experiment.parse(text)


def test_an_experiment_is_read():
    found = Experiment.parse("trials=12, sessions=3,simulations=50")
    assert (found.trials, found.sessions, found.n_trials, found.n_simulated) == (12, 3, 36, 50)
    with pytest.raises(InputError, match="expected trials of 2 or more, found 1"):
        Experiment.parse("trials=1")
