"""Results of `synbrain learning-curve`: scores against hours of data and number of sources."""

from __future__ import annotations

from typing import Literal

from synbrain_cli.io.results.record import Interval, Number, Result, SubjectsProvenance

Over = Literal["hours", "sources"]


class CurvePoint(Result, frozen=True):
    """The score of one model.

    Attributes
    ----------
    over : {"hours", "sources"}
        What grows along the curve.
    amount : float
        Of it.
    subject : str
        "nsd/sub-01".
    strategy : str
    score : float
    ci_low, ci_high : float
    """

    over: Over
    amount: float
    subject: str
    strategy: str
    score: float
    ci_low: Number
    ci_high: Number


class CurveFit(Result, frozen=True):
    """The line fitted to one curve (`synbrain_cli.metrics.learning_curve.LearningCurveFit`).

    Attributes
    ----------
    over : {"hours", "sources"}
    strategy : str
    amounts : list of float
    slope : float
        Score gained per tenfold amount.
    slope_ci : tuple of float
    intercepts : list of float
        Score of each subject at amount 1.
    r2 : float
    level : float
        Probability inside every interval.
    interval : str
        What intervals rest on.
    n_boot : int, optional
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
    """``learning_curve.json``.

    Attributes
    ----------
    score : str
        What it is.
    subjects : list of str
    simulated : bool
    sources : dict
        Per subject, the models of other subjects.
    hours_of_sources_curve : float
        At which the number of sources grows.
    target : float, optional
        Score for which the amounts of data are estimated.
    full_data : dict
        Per subject, the score of the model of all its data.
    points : list of CurvePoint
    fits : list of CurveFit
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
    provenance: SubjectsProvenance
