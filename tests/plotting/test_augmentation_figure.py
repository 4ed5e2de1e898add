"""The figure of decoders with synthesized trials, read back from its parts."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from synbrain_cli.io.results.augmentation import Augmentation, AugmentedDecoder, GainedScore
from synbrain_cli.io.results.record import ModelProvenance
from synbrain_cli.plotting.augmentation import plot_augmentation
from synbrain_cli.plotting.figure import save_figure

AMOUNTS = [0.0, 0.5, 2.0]
LEVEL = {
    "two_way_trials": 0.8,
    "two_way_averages": 0.85,
    "retrieval_trials": 0.1,
    "retrieval_averages": 0.2,
}


def augmentation(*, simulated=True, gain=0.05):
    """Results as an augmentation returns them."""
    conditions = {
        name: [
            AugmentedDecoder(
                amount=amount,
                n_synthesized=round(750 * amount),
                n_images=100,
                weight=0.3 if amount else None,
                penalty=1.0,
                validation_r2=0.1,
                scores={
                    score: GainedScore(
                        value=level + gain * k * i,
                        ci=(level - 0.1, level + 0.1),
                        gain=gain * k * i,
                        gain_ci=(gain * k * (i - 0.5), gain * k * (i + 0.25)),
                    )
                    for score, level in LEVEL.items()
                },
            )
            for k, amount in enumerate(AMOUNTS)
        ]
        for i, name in enumerate(("draws", "mean", "shuffled"))
    }
    return Augmentation(
        model="sub-09_hours-1",
        subject="somewhere/sub-09",
        simulated=simulated,
        n_real_trials=750,
        n_real_images=700,
        n_validation_trials=75,
        n_validation_images=70,
        n_new_images=5000,
        n_test_trials=3000,
        n_test_images=1000,
        averaged_over=1,
        n_components=128,
        n_candidates=300,
        amounts=AMOUNTS,
        chance={score: 0.5 if "two_way" in score else 1 / 300 for score in LEVEL},
        conditions=conditions,
        chosen={name: decoders[1] for name, decoders in conditions.items()},
        best_on_test={},
        notes=[],
        provenance=ModelProvenance(fingerprint="0", data="0", seed=0, n_boot=1000, versions={}),
    )


@pytest.mark.parametrize("simulated", [True, False])
def test_two_panels_and_what_they_are_of(simulated, tmp_path):
    figure = plot_augmentation(augmentation(simulated=simulated))
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == [
        "Two-way identification",
        "Retrieval: first among 300",
    ]
    title = figure.get_suptitle()
    assert ("simulated" in title) == simulated
    for part in ("sub-09_hours-1", "750 real", "3,000 real test trials"):
        assert part in title
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == ["0", "0.5", "2"]
    if simulated:
        save_figure(figure, tmp_path / "augmentation.png")
        assert (tmp_path / "augmentation.png").stat().st_size > 10_000


@pytest.mark.parametrize(("panel", "score"), [(0, "two_way"), (1, "retrieval")])
def test_curves_bars_and_rings(panel, score):
    record = augmentation()
    axes = plot_augmentation(record).axes[panel]
    labels = axes.get_legend_handles_labels()[1]
    assert len(labels) == len(set(labels)) == 6
    curves = {c.get_label(): c for c in axes.containers}
    for name, label in (
        ("draws", "draws"),
        ("mean", "predicted means"),
        ("shuffled", "draws, images shuffled"),
    ):
        for kind, words in (("trials", "single trials"), ("averages", "repeat averages")):
            line, _, (bars,) = curves[f"{label}, {words}"].lines
            found = [d.scores[f"{score}_{kind}"] for d in record.conditions[name]]
            np.testing.assert_allclose(line.get_ydata(), [f.value for f in found])
            level = found[0].value
            for bar, one in zip(bars.get_segments(), found, strict=True):
                np.testing.assert_allclose(bar[:, 1], level + np.array(one.gain_ci))
            # The amount chosen is ringed.
            rings = [
                other
                for other in axes.lines
                if len(other.get_xdata()) == 1 and other.get_markeredgecolor() == line.get_color()
            ]
            place = (line.get_xdata()[1], line.get_ydata()[1])
            assert any(
                np.allclose((ring.get_xdata()[0], ring.get_ydata()[0]), place) for ring in rings
            )


@pytest.mark.parametrize(("gain", "line"), [(0.15, True), (0.01, False)])
def test_chance_is_a_line_where_it_leaves_room_for_the_curves(gain, line):
    axes = plot_augmentation(augmentation(gain=gain)).axes[0]
    words = [text.get_text() for text in axes.findobj(Text)]
    assert ("chance" in words) == line
    assert ("↓ chance 0.5" in words) == (not line)
    assert (axes.get_ylim()[0] <= 0.5) == line
