"""`synbrain localize prf`: files, agreement of maps, the subject's own maps beside, faults."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from PIL import Image
from typer.testing import CliRunner

from synbrain_cli import cli, fit_prf
from synbrain_cli.brain import load_model
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.experiments.mapping_stimuli import mapping_apertures
from synbrain_cli.experiments.retinotopy import MappingSettings, MeasuredMaps, VisualField, respond
from synbrain_cli.pipeline.localize import localize_prf
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.wheels import Wheel, angles_of, directions
from synbrain_cli.run import RunContext

RUN = RunContext(progress=QUIET)
ONE = MappingSettings(n_textures=1)


@pytest.fixture(scope="module")
def workspace(trained):
    return trained


@pytest.fixture(scope="module")
def name(workspace):
    return sorted(path.name for path in workspace.weights.iterdir() if (path / "card.md").exists())[
        0
    ]


@pytest.fixture(scope="module")
def found(workspace, name):
    return fit_prf(load_model(workspace.weights / name, "cpu"), ONE, RUN)


@pytest.fixture(scope="module")
def typed(workspace, name, tmp_path_factory):
    """The folder that the command writes, and what it prints."""
    folder = tmp_path_factory.mktemp("out") / "prf"
    words = ["localize", "prf", "--model", name, "--textures", "1", "--workspace"]
    done = CliRunner().invoke(cli.app, [*words, str(workspace.root), "--output", str(folder), "-q"])
    assert done.exit_code == 0, (done.output, done.exception)
    return folder, done.stdout


def test_files_hold_what_the_function_returns(typed, found):
    folder, _ = typed
    table = pd.read_csv(folder / "prf.tsv", sep="\t")
    for column, values in found.visual._asdict().items():
        np.testing.assert_allclose(table[column], values, atol=1e-3)
    inside = np.asarray(nib.load(found.brain.folder / "mask.nii.gz").dataobj) > 0
    prefix = f"sub-{found.brain.subject}/func/sub-{found.brain.subject}"
    for kind in VisualField._fields:
        image = nib.load(folder / f"{prefix}_stat-{kind}_statmap.nii.gz")
        np.testing.assert_allclose(
            image.get_fdata()[inside], getattr(found.visual, kind), rtol=1e-5
        )
    record = json.loads((folder / "prf.json").read_text())
    assert record["chance_r2"] == pytest.approx(found.chance_r2, abs=1e-4)
    assert record["min_r2"] == record["chance_r2"]
    assert record["regions"]["all"]["n_fitted"] == int((found.visual.r2 >= found.min_r2).sum())


def test_surfaces_have_angles_that_were_resampled_as_directions(typed, found):
    folder, _ = typed
    maps, visual = found.to_surface(), found.visual
    subject = f"sub-{found.brain.subject}"
    prefix = f"{subject}/func/{subject}_hemi-L_space-fsaverage5_stat"
    for kind in VisualField._fields:
        data = nib.load(folder / f"{prefix}-{kind}_statmap.func.gii").agg_data()
        np.testing.assert_allclose(data, maps[kind]["left"], rtol=1e-5, equal_nan=True)
    turn = np.deg2rad(visual.angle)
    right, up = (found.brain.to_surface(one)["left"] for one in (np.cos(turn), np.sin(turn)))
    shown = np.isfinite(right)
    angle = np.deg2rad(maps["angle"]["left"][shown])
    length = np.hypot(right, up)[shown]
    np.testing.assert_allclose(length * np.cos(angle), right[shown], atol=1e-5)
    np.testing.assert_allclose(length * np.sin(angle), up[shown], atol=1e-5)
    for kind in ("eccentricity", "size", "r2"):
        expected = found.brain.to_surface(getattr(visual, kind))["left"]
        np.testing.assert_allclose(maps[kind]["left"], expected, rtol=1e-5, equal_nan=True)


def test_the_map_of_angles_shows_what_the_file_holds(found):
    everywhere = replace(found, settings=MappingSettings(n_textures=1, min_r2=0.0))
    shown = next(everywhere.maps())
    plot_map = MapPlotter(found.brain, "flatmap", Look(), QUIET)
    on_map, in_file = plot_map._on_surface(shown)["left"], found.to_surface()["angle"]["left"]
    away = np.abs((on_map - in_file + 180) % 360 - 180)
    assert np.nanmax(away) < 1e-3
    np.testing.assert_array_equal(np.isnan(on_map), np.isnan(in_file))


def test_angles_are_averaged_on_the_circle():
    around = directions(np.array([350.0, 20.0])).mean(1, keepdims=True)
    np.testing.assert_allclose(angles_of(around), 5)
    angles = np.arange(0.0, 360, 15)
    np.testing.assert_allclose(angles_of(3 * directions(angles)), angles, atol=1e-9)


def test_the_screen_says_what_counts_and_that_the_subject_is_simulated(typed):
    folder, screen = typed
    assert "simulated" in screen.splitlines()[0]
    assert "apertures in another order" in screen
    assert str(folder) in screen
    figures = sorted(path.name for path in folder.glob("*_flatmap.png"))
    assert len(figures) == 4
    for figure in figures:
        assert np.asarray(Image.open(folder / figure).convert("L")).std() > 5


def test_expected_responses_are_averaged_over_textures(found):
    apertures, brain = mapping_apertures(), found.brain
    one, two = (respond(brain, apertures, n, RUN) for n in (1, 2))
    assert one.shape == (len(apertures.names), brain.n_voxels)
    other = 2 * two - one  # of the second texture alone
    assert not np.allclose(one, other)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.5


def test_the_subjects_own_maps_stand_beside(found, tmp_path):
    visual = found.visual
    own = {
        "angle": visual.angle, "eccentricity": visual.eccentricity, "size": visual.size,
        "R2": 100 * visual.r2,
    }  # fmt: skip
    for kind, values in own.items():
        nib.save(found.brain.to_nifti(values), tmp_path / f"prf_{kind}.nii.gz")
    same = MeasuredMaps.load(tmp_path, found.brain).agreement(found)
    assert same.n_voxels >= 10
    assert same.angle_error == pytest.approx(0, abs=1e-3)
    assert same.eccentricity_r == pytest.approx(1, abs=1e-4)
    turned = found.brain.to_nifti((visual.angle + 350) % 360)  # over the step from 360 to 0
    nib.save(turned, tmp_path / "prf_angle.nii.gz")
    away = MeasuredMaps.load(tmp_path, found.brain).agreement(found)
    assert away.angle_error == pytest.approx(10, abs=1e-2)

    shifted = nib.load(tmp_path / "prf_size.nii.gz")
    affine = shifted.affine + np.diag([0, 0, 1, 0])
    nib.save(nib.Nifti1Image(shifted.get_fdata(), affine), tmp_path / "prf_size.nii.gz")
    with pytest.raises(InputError, match=r"prf_size\.nii\.gz: its affine"):
        MeasuredMaps.load(tmp_path, found.brain)
    (tmp_path / "prf_angle.nii.gz").unlink()
    with pytest.raises(MissingError, match=r"prf_angle\.nii\.gz: expected the subject's own map"):
        MeasuredMaps.load(tmp_path, found.brain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degrees": 0}, "--degrees 0: expected more than 0"),
        ({"n_textures": 0}, "--textures 0: expected one or more"),
        ({"min_r2": 1.0}, "--min-r2 1: expected 0 or more, and less than 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        MappingSettings(**settings)


def test_degrees_scale_eccentricity_and_size_alone(found):
    wide = VisualField(*found.visual)
    half = replace(found, settings=MappingSettings(degrees=4.2, n_textures=1)).visual
    np.testing.assert_allclose(half.eccentricity, wide.eccentricity / 2)
    np.testing.assert_allclose(half.size, wide.size / 2)
    np.testing.assert_array_equal(half.angle, wide.angle)


def test_plot_shows_a_wheel_and_refuses_other_maps(found):
    figure = found.plot("angle")
    assert "wheel" in [axes.get_label() for axes in figure.axes]
    with pytest.raises(InputError, match="what: expected one of angle, eccentricity, size, r2"):
        found.plot("phase")


def test_colours_of_angles_go_round_in_a_circle():
    colours = Wheel("angle", 4.2).fit(np.array([]))
    first, last, middle = (colours.mappable.to_rgba(value) for value in (0.0, 359.9, 180.0))
    np.testing.assert_allclose(first, last, atol=0.1)
    assert np.abs(np.subtract(first, middle)).max() > 0.5


def test_a_subject_without_a_volume_has_no_measured_maps(found, tmp_path, monkeypatch):
    monkeypatch.setitem(vars(found.brain.voxel_space), "geometry", None)
    with pytest.raises(InputError, match="expected a model of a volume"):
        MeasuredMaps.load(tmp_path, found.brain)


def test_an_interrupted_run_goes_on_where_it_stopped(workspace, name, tmp_path, monkeypatch):
    from synbrain_cli.pipeline import localize as module

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_maps", stop)
    brain, folder = load_model(workspace.weights / name, "cpu"), tmp_path / "prf"
    with pytest.raises(KeyboardInterrupt):
        module.localize_prf(workspace, brain, ONE, output=folder, run=RUN)
    assert not (folder / "prf.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(type(brain), "mean", stop)  # responses are there
    result = module.localize_prf(workspace, brain, ONE, output=folder, run=RUN)
    assert (result.folder / "prf.json").exists()
    shutil.rmtree(folder)


def test_a_threshold_that_no_voxel_reaches_leaves_the_maps_out(workspace, name, tmp_path):
    brain, folder = load_model(workspace.weights / name, "cpu"), tmp_path / "prf"
    settings = MappingSettings(n_textures=1, min_r2=0.999999)
    result = localize_prf(workspace, brain, settings, output=folder, run=RUN)
    assert result.record.regions["all"].n_fitted == 0
    assert result.record.regions["all"].size is None
    maps = [path.name for path in folder.glob("*flatmap*")]
    assert maps == [f"sub-{brain.subject}_stat-r2_flatmap.png"]
    assert len(list(folder.rglob("*_statmap.nii.gz"))) == 4
