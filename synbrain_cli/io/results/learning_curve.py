"""Results of `synbrain learning-curve`: scores against hours of data and number of sources."""

from __future__ import annotations

from typing import Literal

from synbrain_cli.io.results.record import Interval, Number, Result, SubjectsProvenance

Over = Literal["hours", "sources"]


class CurvePoint(Result, frozen=True):
    """Score of one model, a point of a learning curve.

    Attributes
    ----------
    over : {"hours", "sources"}
        Quantity that varies along the curve: hours of data, or number of source subjects.
    amount : float
        Value of this quantity.
    subject : str
        Dataset and label, such as "nsd/sub-01".
    strategy : str
        Strategy of the adaptation.
    score : float
    ci_low, ci_high : float
        Limits of the interval of the score.
    """

    over: Over
    amount: float
    subject: str
    strategy: str
    score: float
    ci_low: Number
    ci_high: Number


class CurveFit(Result, frozen=True):
    """Line fitted to one curve (`synbrain_cli.metrics.learning_curve.LearningCurveFit`).

    Attributes
    ----------
    over : {"hours", "sources"}
        Quantity that varies along the curve.
    strategy : str
        Strategy of the adaptation.
    amounts : list of float
        Amounts to which the line was fitted.
    slope : float
        Score gained per tenfold amount.
    slope_ci : tuple of float
    intercepts : list of float
        Score of each subject at amount 1.
    r2 : float
    level : float
        Probability of every interval.
    interval : str
        Source of the intervals: "residuals", "images", or "images and subjects".
    n_boot : int, optional
        Number of bootstrap samples; None where intervals come from residuals.
    to_reach : float
        Amount at which the line reaches the target; None where there is none.
    to_reach_ci : tuple of float
    """

    over: Over
    strategy: str
    amounts: list[float]
    slope: Number
    slope_ci: Interval
    intercepts: list[Number]
    r2: Number
    level: float
    interval: str
    n_boot: int | None
    to_reach: Number
    to_reach_ci: Interval


class LearningCurve(Result, frozen=True):
    """Content of ``learning_curve.json``.

    Attributes
    ----------
    score : str
        Name of the score.
    subjects : list of str
    simulated : bool
    sources : dict
        Subject → models of other subjects from which it is adapted.
    hours_of_sources_curve : float
        Hours of data of the subject in the curve over the number of sources.
    target : float, optional
        Score for which the necessary amount of data is estimated.
    full_data : dict
        Subject → score of the model that was trained on all of its data.
    points : list of CurvePoint
    fits : list of CurveFit
    notes : list of str
    provenance : SubjectsProvenance
    """

    score: str
    subjects: list[str]
    simulated: bool
    sources: dict[str, list[str]]
    hours_of_sources_curve: float
    target: float | None
    full_data: dict[str, Number]
    points: list[CurvePoint]
    fits: list[CurveFit]
    notes: list[str]
    provenance: SubjectsProvenance
