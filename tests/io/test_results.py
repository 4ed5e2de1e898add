"""Records of results: what is missing, unknown or of another type is named; NaN becomes null."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from evaluation_record import CONTENT, evaluation_record

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.records import write_record
from synbrain_cli.io.results.evaluation import DrawScore, ResponseScore, read_evaluation
from synbrain_cli.io.results.record import finite


def without(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def with_value(value, *keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("n_voxels"), r"expected the field `n_voxels`, found none"),
        (
            without("overall", "skill", "ceiling"),
            r"expected the field `ceiling` at `\$.overall.skill`, found none",
        ),
        (with_value(1, "overall", "skil"), r"found `skil` at `\$.overall`"),
        (
            with_value("0.5", "draws", "crps", "model"),
            r"expected `float \| null`, found `str` at `\$.draws.crps.model`",
        ),
        (with_value([], "draws", "pit_histogram", "linear"), r"`\$.draws.pit_histogram.linear`"),
        (with_value([1.0] * 19, "draws", "pit_histogram", "linear"), r"length >= 20"),
        (with_value([1e308] * 20, "draws", "pit_histogram", "linear"), r"<= 20"),
        (with_value(float("nan"), "overall", "skill", "model"), r"`float` >= -1e\+?300"),
        (with_value([-1e308, 1], "overall", "skill", "ci"), r">= -1e\+?300.*ci"),
        (without("draws", "pit_histogram", "model"), r"expected the field `model`"),
        (with_value([0.1], "overall", "skill", "ci"), r"length 2.*`\$.overall.skill.ci`"),
        (with_value(1.5, "provenance", "seed"), r"expected `int`, found `float`.*seed"),
        (with_value({}, "roi", "V1"), r"`\$.roi\[...\]`"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
    content = json.loads(json.dumps(CONTENT))
    change(content)
    (tmp_path / "metrics.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_evaluation(tmp_path)
    assert str(tmp_path / "metrics.json") in str(caught.value)
    assert "run `synbrain evaluate` again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_absent(tmp_path):
    with pytest.raises(MissingError, match=r"metrics.json does not exist"):
        read_evaluation(tmp_path)


def test_what_is_written_is_read_again(tmp_path):
    record = evaluation_record({"simulated": False})
    write_record(tmp_path / "metrics.json", record)
    assert read_evaluation(tmp_path) == record
    written = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert "deep" not in written["overall"]["skill"]  # absent, where there are no networks
    assert written["overall"]["skill"]["ceiling"] is None  # no value


def test_no_value_is_null_and_numbers_are_plain():
    score = ResponseScore(
        model=np.float32(0.5),
        deep=float("nan"),
        linear=np.inf,
        mean_pattern=0.0,
        shuffled=-np.inf,
        ceiling=None,
        ci=np.array([0.25, np.nan]),
    )
    found = finite(score)
    assert found.ci == (0.25, None)
    assert [found.model, found.deep, found.linear, found.shuffled] == [0.5, None, None, None]
    assert type(found.model) is float
    assert found.transfer is msgspec.UNSET


def test_fields_by_name():
    score = DrawScore(model=1.0, linear=2.0, mean_pattern=3.0, shuffled=None, nominal=1.0)
    assert dict(score.items()) == {
        "model": 1.0,
        "linear": 2.0,
        "mean_pattern": 3.0,
        "shuffled": None,
        "nominal": 1.0,
    }
    assert score.get("linear") == 2
    assert score.get("latent_best") is score.get("no such score") is None
