"""Whether a wrong design is found, and a right one left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synbrain_cli.evaluation.alignment import (
    TWICE,
    Recording,
    Templates,
    image_agreement,
    parts_of,
    standardized_by_part,
)
from synbrain_cli.evaluation.alignment_candidates import (
    exchanged,
    renumberings,
    repeated_runs,
    shifted,
)
from synbrain_cli.evaluation.alignment_check import check_design
from synbrain_cli.evaluation.alignment_findings import as_text
from synbrain_cli.evaluation.alignment_inputs import CheckInputs
from synbrain_cli.evaluation.alignment_statistics import (
    Chance,
    best_segment,
    counted_twice,
    critical_z_of_stretch,
    paired_z,
    permutation_moments,
    permutation_z,
)

N_IMAGES, N_COMPONENTS, N_FEATURES = 120, 12, 10


def simulated(
    seed=0, sessions=3, trials=120, signal=0.6, by_features=1.0, n_images=N_IMAGES, shown=None
) -> CheckInputs:
    """Responses whose signal is linear in features, or an own pattern of each image."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n_images, N_FEATURES)).astype(np.float32)
    features = (features - features.mean(0)) / np.sqrt(N_FEATURES)
    session = np.repeat(np.arange(1, sessions + 1), trials)
    if shown is None:
        shown = np.concatenate([rng.permutation(n_images)] * (-(-len(session) // n_images)))
        shown = rng.permutation(shown)[: len(session)]
    weights = rng.standard_normal((N_FEATURES, N_COMPONENTS))
    own = rng.standard_normal((n_images, N_COMPONENTS))
    expected = by_features * (features @ weights) + (1 - by_features) * own
    noise = rng.standard_normal((len(session), N_COMPONENTS))
    part = parts_of(session)
    values = standardized_by_part(signal * expected[shown] + noise, part)
    fold = rng.permutation(n_images) % 4
    return CheckInputs(
        Recording(values, features, session, part, fold),
        shown,
        [f"im{i}" for i in range(n_images)],
        np.arange(len(session)),
        {},
    )


def wrong(inputs: CheckInputs, shown: np.ndarray) -> CheckInputs:
    return replace(inputs, shown=np.asarray(shown))


def only(inputs: CheckInputs, session: int, change) -> CheckInputs:
    """Change the images of one session."""
    shown = inputs.shown.copy()
    rows = inputs.recording.trials_of(session)
    shown[rows] = change(shown[rows])
    return wrong(inputs, shown)


def text_of(inputs: CheckInputs) -> str:
    found = check_design(inputs)
    assert found.status == "differs", found
    return found.findings[0].text


# ---------------------------------------------------------------------------- what is found


def test_a_right_design_fits():
    found = check_design(simulated(by_features=0.5))
    assert found.status == "fits"
    assert not found.findings
    assert not found.notes
    assert found.images.z > 6
    assert found.both.r > found.images.r  # repeats tell more


@pytest.mark.parametrize(("by", "other"), [(1, "earlier"), (-1, "later")])
def test_every_session_shifted(by, other):
    inputs = simulated()
    shown = np.concatenate(
        [np.roll(inputs.shown[inputs.recording.trials_of(s)], -by) for s in (1, 2, 3)]
    )
    text = text_of(wrong(inputs, shown))
    assert text.startswith(f"all sessions: responses match the images listed one trial {other} (r ")


def test_one_session_shifted_is_named():
    text = text_of(only(simulated(), 2, lambda x: np.roll(x, -3)))
    assert text.startswith("session 2: responses match the images listed three trials earlier")


def test_a_stretch_of_a_session_is_named():
    def change(x):
        x = x.copy()
        x[40:100] = np.roll(x[40:100], 1)
        return x

    text = text_of(only(simulated(trials=240, n_images=80), 3, change))
    where, what = text.split(": responses match ")
    first, last, _ = (int(word) for word in where.split() if word.isdecimal())
    assert where.endswith("of session 3")
    assert abs(first - 42) <= 5
    assert abs(last - 100) <= 5
    assert what.startswith("the images listed one trial later")


def test_exchanged_sessions():
    inputs = simulated(sessions=3)
    shown = exchanged(inputs.shown, inputs.recording.session, 1, 3)
    assert "sessions 1 and 3 are exchanged" in text_of(wrong(inputs, shown))
    many = simulated(sessions=7)
    shown = exchanged(many.shown, many.recording.session, 2, 5)
    found = check_design(wrong(many, shown))
    assert {one.text.split(" (r")[0] for one in found.findings} == {
        "session 2: responses match the images of session 5",
        "session 5: responses match the images of session 2",
    }


def test_every_session_out_of_order():
    inputs = simulated(sessions=5, trials=240, signal=0.9)
    shown = np.roll(inputs.shown, 240)
    found = check_design(wrong(inputs, shown))
    assert len(found.findings) == 5
    texts = {one.text.split(" (r")[0] for one in found.findings}
    assert "session 1: responses match the images of session 2" in texts
    assert "session 5: responses match the images of session 1" in texts


def test_images_renumbered_though_repeats_agree():
    inputs = simulated()
    steps = dict(renumberings(inputs.shown, inputs.images))
    new = steps["the next image in the order of names"]
    shown = np.where(new[inputs.shown] >= 0, new[inputs.shown], inputs.shown)
    text = text_of(wrong(inputs, shown))
    assert text.startswith("all sessions: responses match the previous image")


def test_names_sorted_as_text():
    inputs = simulated()
    new = dict(renumberings(inputs.shown, inputs.images))[
        "images numbered as 1, 2, 10, not as 1, 10, 2"
    ]
    assert "images numbered as 1, 10, 2, not as 1, 2, 10" in text_of(
        wrong(inputs, new[inputs.shown])
    )


def test_another_subjects_design():
    inputs = simulated()
    theirs = np.random.default_rng(5).permutation(inputs.shown)
    known = replace(inputs, shown=theirs, designs={"02": inputs.shown})
    assert text_of(known).startswith("all sessions: responses match the images of sub-02")
    found = check_design(wrong(simulated(trials=600), np.repeat(theirs, 5)))
    assert found.status == "no signal"


def test_reversed_order():
    inputs = simulated()
    assert "in reverse order" in text_of(wrong(inputs, inputs.shown[::-1]))
    assert text_of(only(inputs, 2, lambda x: x[::-1])).startswith(
        "session 2: responses match their images in reverse order"
    )


def test_rows_of_the_table_repeated():
    def change(x):
        x = x.copy()
        x[70:110] = x[20:60]
        return x

    text = text_of(only(simulated(signal=0.9, trials=240, n_images=80), 2, change))
    assert text.startswith("trials 71 to 110 of session 2: the table repeats the images of trials")


def test_rows_pasted_twice_in_noise():
    """Repeated rows tell where later ones may be moved: less evidence is needed than elsewhere."""

    def change(x):
        x = x.copy()
        x[60:] = x[20:-40]
        return x

    noisy = [simulated(seed=seed, signal=0.3, trials=300, sessions=2) for seed in range(10)]
    checks = [check_design(only(one, 2, change)) for one in noisy]
    assert all("the images listed 40 trials later" in check.findings[0].text for check in checks)


def test_repeated_rows_are_noted_where_responses_do_not_tell():
    inputs = simulated(signal=0.25, trials=300)
    shown = inputs.shown.copy()
    shown[350:370] = shown[320:340]
    [note] = check_design(wrong(inputs, shown)).notes
    assert note.startswith("trials 51 to 70 of session 2: the table repeats the images of")
    # Where they were shown again, responses say so
    again = simulated(signal=2, trials=300, shown=shown)
    assert not check_design(again).notes
    # Where runs repeat each other throughout, that is the design
    runs = np.random.default_rng(2).permutation(N_IMAGES).reshape(4, 30)
    blocks = runs[np.random.default_rng(3).integers(0, 4, 30)].ravel()
    assert not check_design(simulated(signal=0.0, trials=300, shown=blocks)).notes


def test_a_session_with_another_design_does_not_hide_itself():
    """Pieces of two sessions serve as templates of each other, those of the shifted one wrongly.

    Templates of the other sessions alone find what these miss.
    """
    noisy = [simulated(seed=seed, signal=0.25, trials=240) for seed in range(10)]
    checks = [check_design(only(one, 3, lambda x: x[::-1])) for one in noisy]
    assert all("reverse order" in check.findings[0].text for check in checks)


def test_responses_copied():
    inputs = simulated()
    copies = inputs.copies.copy()
    copies[50:70] = copies[20:40]
    text = text_of(replace(inputs, copies=copies))
    assert (
        text == "trials 51 to 70 of session 1: responses are copies of those of trials 21 to 40 "
        "of session 1"
    )


def test_repeats_alone_find_a_shift():
    """Where images predict nothing, repeats do."""
    inputs = simulated(by_features=0.0, signal=1.0)
    assert check_design(inputs).images.z < 4
    text = text_of(only(inputs, 2, lambda x: np.roll(x, -1)))
    assert text.startswith("session 2: responses match the images listed one trial earlier")


# ---------------------------------------------------------------------------- what is not


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_no_alignment(seed):
    """Responses that know no image: as many trials as tell, and as few as do not."""
    found = check_design(simulated(seed, signal=0.0))
    assert not found.findings
    assert found.status in ("no signal", "too few")
    few = check_design(simulated(seed, sessions=1, trials=30, signal=0.0))
    assert few.status == "too few"


@pytest.mark.parametrize("seed", range(6))
def test_few_trials_are_not_refused(seed):
    for n_trials in (12, 25, 40):
        inputs = simulated(seed, sessions=1, trials=n_trials, signal=0.4)
        found = check_design(inputs)
        assert found.status in ("fits", "too few"), found
        assert not found.notes


def test_a_session_that_matches_nothing_is_named():
    rng = np.random.default_rng(3)
    inputs = simulated(sessions=4, trials=240, signal=0.9, n_images=60)
    text = text_of(only(inputs, 4, lambda x: rng.integers(0, 60, len(x))))
    assert text.startswith("session 4: responses match neither its images nor another design")


# ------------------------------------------------------------------------------- statistics


def test_permutation_moments_are_those_of_permutations(rng):
    c = rng.standard_normal((7, 7))
    total, mean, variance = permutation_moments(c)
    sums = [c[np.arange(7), rng.permutation(7)].sum() for _ in range(40_000)]
    assert total == pytest.approx(np.trace(c))
    assert np.mean(sums) == pytest.approx(mean, abs=0.05)
    assert np.var(sums) == pytest.approx(variance, rel=0.05)


def test_chance_is_calibrated(rng):
    """z of unrelated responses is standard normal."""
    z = [
        permutation_z([rng.standard_normal((40, 5)) @ rng.standard_normal((5, 40))], 40).z
        for _ in range(800)
    ]
    assert abs(np.mean(z)) < 0.12
    assert np.std(z) == pytest.approx(1, abs=0.08)
    assert Chance(0.0, 0.0).z == 0


def test_agreement_of_noise_is_zero():
    """A wrong design has no agreement, whatever is estimated from it."""
    z = []
    for seed in range(40):
        inputs = simulated(seed, signal=0.0, n_images=40)
        fitted = Templates.fit(inputs.recording, inputs.shown)
        for kind in ("features", "both"):
            images = np.unique(inputs.shown)
            own = fitted.by_image(inputs.recording, inputs.shown, images, kind)
            z.append(permutation_z([own], 360).z / TWICE)
    assert abs(np.mean(z)) < 0.25
    assert np.std(z) == pytest.approx(1, abs=0.2)


def test_image_agreement_is_that_of_templates():
    inputs = simulated()
    fitted = Templates.fit(inputs.recording, inputs.shown)
    np.testing.assert_allclose(
        image_agreement(inputs.recording, inputs.shown),
        fitted.agreement(inputs.recording, inputs.shown).features,
        atol=1e-6,
    )


def test_best_segment():
    gains = np.array([-1.0, 2, -0.5, 3, -4, 1])
    assert best_segment(gains) == (1, 4, 4.5)
    assert best_segment(-np.ones(4)) == (0, 0, 0.0)
    assert best_segment(np.array([])) == (0, 0, 0.0)


def test_paired_z():
    given = np.zeros(50)
    other = given + 1 + np.random.default_rng(0).standard_normal(50)
    images = np.arange(50), np.arange(50)
    mean, zero, z = paired_z(other, given, images)
    assert mean == pytest.approx(other.mean())
    assert zero == 0
    assert 4 < z < 12
    again = np.repeat(np.arange(50), 4)
    four = tuple(np.repeat(one, 4) for one in (other, given))  # no news in repeats of a number
    assert paired_z(*four, (again, again))[2] == pytest.approx(z, rel=0.02)
    assert paired_z(other, given, (np.arange(50) // 10, images[1]))[2] == 0  # five images
    assert paired_z(np.full(9, np.nan), np.zeros(9), (np.arange(9),) * 2)[2] == 0


def image_by_image(seed: int, signal: float) -> CheckInputs:
    """All repeats of an image follow each other, and features tell nothing of responses."""
    inputs = simulated(seed, sessions=1, trials=480, n_images=60, signal=0.0)
    shown = np.repeat(np.arange(60), 8)
    rng = np.random.default_rng(seed)
    values = signal * rng.standard_normal((60, N_COMPONENTS))[shown]
    values = values + rng.standard_normal((480, N_COMPONENTS))
    values = standardized_by_part(values, inputs.recording.part)
    return replace(inputs, shown=shown, recording=replace(inputs.recording, responses=values))


@pytest.mark.parametrize("seed", range(12))
def test_repeats_in_a_row_are_no_evidence_of_another_design(seed):
    found = check_design(image_by_image(seed, 1.0))
    assert not found.findings
    assert not found.notes


@pytest.mark.parametrize("n_sessions", [1, 2, 3, 6, 11, 40])
def test_parts_divide_every_trial(n_sessions):
    session = np.repeat(np.arange(n_sessions), 60)
    part = parts_of(session)
    assert set(part) == set(range(part.max() + 1))
    assert 6 <= part.max() + 1 <= 10
    for one in range(part.max() + 1):  # consecutive
        rows = np.flatnonzero(part == one)
        assert len(rows) == rows[-1] - rows[0] + 1


def test_shifted_stays_within_sessions():
    session = np.array([1, 1, 1, 2, 2, 2])
    shown = np.arange(6)
    assert shifted(shown, session, 1).tolist() == [1, 2, -1, 4, 5, -1]
    assert shifted(shown, session, -2).tolist() == [-1, -1, 0, -1, -1, 3]
    assert shifted(shown, session, 5).tolist() == [-1] * 6


def test_runs_in_noise_are_hardly_ever_clear(rng):
    """The largest z of all stretches, of any length, at ten shifts."""
    n, n_false = 200, 0
    for _ in range(100):
        z = []
        for _ in range(10):
            start, stop, total = best_segment(rng.standard_normal(n))
            z.append(total / np.sqrt(stop - start) - critical_z_of_stretch(10, n / (stop - start)))
        n_false += max(z) > 0
    assert n_false <= 3  # of .1 expected at most


def test_products_count_twice_within_parts_that_serve_each_other(rng):
    """SD of sums of products of every two trials in different parts, by simulation."""
    part = np.repeat([0, 1, 2, 3], 10)
    some = np.arange(25)
    sums = []
    for _ in range(4000):
        y = rng.standard_normal(len(part))
        template = np.array([y[part != one].sum() for one in part])
        sums.append((y * template)[some].sum())
    independent = np.sqrt(sum((part != part[t]).sum() for t in some))
    assert np.std(sums) / independent == pytest.approx(counted_twice(part, some), rel=0.05)
    assert counted_twice(part, np.arange(10)) == 1
    assert counted_twice(part, np.arange(40)) == pytest.approx(np.sqrt(2))


def test_repeated_runs():
    values = np.array([7, 1, 2, 3, 4, 8, 9, 1, 2, 3, 4, 5])
    assert repeated_runs(values, 3) == [(1, 7, 4)]
    assert repeated_runs(np.ones(30, int), 3) == []
    assert repeated_runs(np.arange(30), 3) == []
    assert repeated_runs(np.array([1]), 3) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0.214, ".21"), (-0.034, "−.03"), (-0.001, ".00"), (1.0, "1.00")]
)
def test_as_text(value, text):
    assert as_text(value) == text
