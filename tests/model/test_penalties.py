"""Penalties chosen by cross-validation, against himalaya's choice."""

from __future__ import annotations

import numpy as np
import pytest
from himalaya.ridge import RidgeCV
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from synbrain_cli.model import penalties
from synbrain_cli.model.linear import ALPHAS
from synbrain_cli.model.penalties import choose_penalties


def examples(n_rows, n_components, rng, n_targets=90):
    """Centred scores of falling variance, and targets from noise alone to signal alone."""
    scores = rng.normal(size=(n_rows, n_components)) * np.arange(1, n_components + 1) ** -0.7
    weights = rng.normal(size=(n_components, n_targets)) * np.geomspace(0.02, 20, n_targets)
    targets = scores @ weights + rng.normal(size=(n_rows, n_targets))
    return [np.asarray(x - x.mean(0), np.float32) for x in (scores, targets)]


def deal(n_rows, n_folds=5):
    return KFold(n_folds, shuffle=True, random_state=3)


# More rows than components, fewer, and folds of unequal size.
@pytest.mark.parametrize(("n_rows", "n_components"), [(300, 40), (60, 59), (50, 120), (203, 150)])
def test_the_choice_is_that_of_himalaya(n_rows, n_components, rng):
    scores, targets = examples(n_rows, n_components, rng)
    folds = [held_out for _, held_out in deal(n_rows).split(scores)]
    chosen = ALPHAS[choose_penalties(scores, targets, folds, ALPHAS)]
    reference = RidgeCV(
        alphas=ALPHAS, cv=deal(n_rows), fit_intercept=False, solver_params={"warn": False}
    ).fit(scores, targets)
    equal = np.isclose(chosen, reference.best_alphas_, rtol=1e-5)
    errors = exact_errors(scores, targets, folds)
    least, next_to = np.sort(errors, 0)[:2]
    clear = next_to > least * (1 + 1e-5)  # others tie to the last digits of float32
    assert clear.mean() > 0.8
    assert equal[clear].all()
    assert (errors[np.searchsorted(ALPHAS, chosen), range(90)] < least * (1 + 1e-5)).all()
    assert len(set(chosen)) > 4


def exact_errors(scores, targets, folds):
    """Mean squared errors in float64, by the normal equations of every fold."""
    x, y = scores.astype(float), targets.astype(float)
    errors = np.zeros((len(ALPHAS), y.shape[1]))
    for rows in folds:
        others = np.delete(np.arange(len(x)), rows)
        for k, alpha in enumerate(ALPHAS):
            fit = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(x[others], y[others])
            errors[k] += ((fit.predict(x[rows]) - y[rows]) ** 2).mean(0) / len(folds)
    return errors


def test_targets_are_chosen_for_one_by_one(rng, monkeypatch):
    scores, targets = examples(80, 20, rng)
    folds = [held_out for _, held_out in deal(80).split(scores)]
    together = choose_penalties(scores, targets, folds, ALPHAS)
    monkeypatch.setattr(penalties, "TOGETHER", 7)
    np.testing.assert_array_equal(choose_penalties(scores, targets, folds, ALPHAS), together)


def test_a_direction_that_no_training_row_shows_is_not_weighed(rng):
    scores, targets = examples(40, 6, rng)
    scores[:, 5] = 0
    scores[3, 5] = 100  # in one row alone: when it is held out, nothing is known of it
    folds = np.array_split(np.arange(40), 5)
    chosen = choose_penalties(scores, targets, folds, ALPHAS)
    others = choose_penalties(np.ascontiguousarray(scores[:, :5]), targets, folds, ALPHAS)
    assert (chosen == others).mean() > 0.5
