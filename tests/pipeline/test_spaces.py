"""Subjects in volumes, on surfaces and nowhere: train, evaluate, synthesize, and back to space."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from PIL import Image
from sealing import reseal_bundle

from synbrain_cli.brain import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.experiments.retinotopy import MappingSettings
from synbrain_cli.io.arrays import save_arrays
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.surface import fsaverage
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats, voxelwise_correlation
from synbrain_cli.model.sequence import Sequence
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.localize import localize_prf
from synbrain_cli.pipeline.nsd_copy import NSDSource
from synbrain_cli.pipeline.plot import Selection, brain_maps
from synbrain_cli.pipeline.prepare import prepare_nsd, prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.synthesize import Output, synthesize
from synbrain_cli.pipeline.synthesize_sequence import synthesize_sequence
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import load_examples

N_IMAGES, N_REPEATS, N_VERTICES = 40, 3, 60


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images whose left and right halves differ in contrast."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for i in range(N_IMAGES):
        noise = generator.normal(0, 1, (64, 64, 1)) * generator.uniform(5, 60, (1, 2, 1)).repeat(
            32, axis=1
        )
        pixels = np.clip(127 + noise, 0, 255).astype(np.uint8).repeat(3, axis=2)
        Image.fromarray(pixels).save(folder / f"p{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def experiment_files(pictures, tmp_path_factory):
    """Responses to them, and the table."""
    folder = tmp_path_factory.mktemp("experiment")
    generator = np.random.default_rng(1)
    shown = np.tile(np.arange(N_IMAGES), N_REPEATS)
    pixels = np.stack([np.asarray(Image.open(p), float) for p in sorted(pictures.iterdir())])
    contrast = np.stack([pixels[:, :, :32].std((1, 2, 3)), pixels[:, :, 32:].std((1, 2, 3))], 1)
    signal = (contrast - contrast.mean(0)) @ generator.normal(0, 0.05, (2, N_VERTICES))
    responses = 20 + signal[shown] + generator.normal(0, 0.5, (len(shown), N_VERTICES))
    np.save(folder / "responses.npy", responses.astype(np.float32))
    table = pd.DataFrame({"image": [f"p{i:02d}" for i in shown]})
    table.to_csv(folder / "trials.tsv", sep="\t", index=False)
    return folder


@pytest.fixture(scope="module")
def nowhere(experiment_files, pictures, tmp_path_factory):
    """A subject of an array alone, prepared without standardisation, and a model of it."""
    workspace = Workspace(tmp_path_factory.mktemp("nowhere"))
    experiment = Experiment(
        experiment_files / "trials.tsv",
        pictures,
        (experiment_files / "responses.npy",),
        standardize="none",
        unit="spikes",
    )
    result = prepare_table(
        Target(workspace, "v4", ("gabor",)), experiment, "01", RunContext(progress=QUIET)
    )
    store = workspace.find_tokens("v4", None, QUIET.info)
    run = RunContext(progress=QUIET)
    train(workspace, result.subjects[0], store, TrainSettings(preset="test"), run)
    return workspace


@pytest.fixture(scope="module")
def on_surface(experiment_files, pictures, tmp_path_factory):
    """The same responses at 30 vertices of each hemisphere of fsaverage5, and a model of them."""
    workspace = Workspace(tmp_path_factory.mktemp("surface"))
    responses = np.load(experiment_files / "responses.npy")
    files = {}
    for h, part in (("left", responses[:, :30]), ("right", responses[:, 30:])):
        whole = np.zeros((len(responses), 10_242), np.float32)
        whole[:, 500:530] = part
        files[h] = (workspace.root / f"{h}.npy",)
        np.save(files[h][0], whole)
    experiment = Experiment(
        experiment_files / "trials.tsv",
        pictures,
        left=files["left"],
        right=files["right"],
        space="fsaverage5",
        unit="percent signal change",
    )
    result = prepare_table(
        Target(workspace, "mine", ("gabor",)), experiment, "01", RunContext(progress=QUIET)
    )
    store = workspace.find_tokens("mine", None, QUIET.info)
    run = RunContext(progress=QUIET)
    train(workspace, result.subjects[0], store, TrainSettings(preset="test"), run)
    return workspace


def test_a_subject_without_a_place(nowhere, pictures):
    brain = load_model(nowhere.weights / "sub-01", "cpu")
    made = synthesize(
        nowhere, brain.folder, pictures / "p00.png", Drawing(3), run=RunContext(progress=QUIET)
    )
    draws = np.load(made.draws)
    assert draws.shape == (1, 3, N_VERTICES)
    assert not list(made.folder.rglob("*.nii.gz"))
    assert not list(made.folder.rglob("*.gii"))
    assert "nifti" not in made.images
    sidecar = made.folder / "sub-01/func/sub-01_desc-draws_betas.json"
    assert '"Unit": "spikes"' in sidecar.read_text()
    with pytest.raises(InputError, match="expected voxels of a volume"):
        brain.to_nifti(draws[0])
    with pytest.raises(InputError, match="the position of its voxels is not known"):
        brain_maps(
            nowhere, "flatmap", Selection(responses=made.folder), run=RunContext(progress=QUIET)
        )
    with pytest.raises(InputError, match="can be resampled to none"):
        synthesize(
            nowhere,
            brain.folder,
            pictures,
            output=Output(spaces=["fsaverage5"]),
            run=RunContext(progress=QUIET),
        )


def test_betas_that_were_not_standardised_are_learnt_in_their_own_unit(nowhere):
    """Responses of 20 ± some: predictions are about 20, and scores are as for z-scores."""
    subject = PreparedSubject(nowhere.prepared / "v4/sub-01")
    assert 15 < subject.betas.mean() < 25
    store = nowhere.find_tokens("v4", None, QUIET.info)
    loaded = load_examples(subject, store)
    scale, examples = loaded.scale, loaded.train
    np.testing.assert_allclose(examples.betas.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(examples.betas.std(0), 1, atol=1e-4)
    brain = load_model(nowhere.weights / "sub-01", "cpu")
    test = subject.select("test")
    predicted = brain.predict("linear", store.take(test.images))
    np.testing.assert_allclose(predicted.mean(0), test.betas.mean(0), atol=1.5)
    np.testing.assert_allclose(brain.standardize(test.betas) * scale.sd + scale.mean, test.betas)
    result = evaluate(
        nowhere, brain, subject, store, EvaluateSettings(n_boot=50), run=RunContext(progress=QUIET)
    )
    score = result.metrics.overall.voxelwise_correlation
    averages, _, _ = average_repeats(test.betas, test.image_index)
    expected = np.median(voxelwise_correlation(averages, predicted))
    assert score.linear == pytest.approx(expected, abs=1e-5)
    assert score.linear > 0.5 > score.shuffled
    assert score.ceiling is not None  # from the repeats
    assert abs(result.metrics.overall.skill.mean_pattern) < 1e-9
    assert "spikes" in str(result.metrics.units)
    assert list(result.voxels.columns[:1]) == ["ncsnr"]


def test_sessions_on_a_surface(on_surface, pictures, tmp_path):
    bundle = tmp_path / "weights/sub-01"
    shutil.copytree(on_surface.weights / "sub-01", bundle)
    readout = load_model(bundle, "cpu").distribution.readout
    save_arrays(bundle / "sequence.safetensors", Sequence.nothing(readout.noise).arrays())
    training = json.loads((bundle / "config.json").read_text())["training"]
    reseal_bundle(bundle, training=training | {"sequence": {"reason": ""}})
    table = tmp_path / "day.tsv"
    table.write_text("session\timage\n1\tp00\n1\tp01\n1\tp00\n2\tp00\n")
    made = synthesize_sequence(
        *(Workspace(tmp_path), bundle, table, pictures, Drawing(2)),
        run=RunContext(progress=QUIET),
    )
    draws = np.load(made.draws)
    assert draws.shape == (4, 2, N_VERTICES)
    assert len(made.files) == 8  # sessions, sequences, hemispheres
    name = "sub-01_ses-1_hemi-R_space-fsaverage5_desc-draw2_betas.func.gii"
    values = np.stack([array.data for array in nib.load(made.draws.parent / name).darrays])
    np.testing.assert_array_equal(values[:, 500:530], draws[:3, 1, 30:])


def test_a_subject_on_a_surface(on_surface, pictures):
    brain = load_model(on_surface.weights / "sub-01", "cpu")
    assert brain.n_voxels == N_VERTICES
    made = synthesize(
        on_surface, brain.folder, pictures / "p03.png", Drawing(2), run=RunContext(progress=QUIET)
    )
    draws = np.load(made.draws)[0]
    expected = brain.mean(pictures / "p03.png")[0]
    for h, label, part in (("left", "L", draws[:, :30]), ("right", "R", draws[:, 30:])):
        name = f"sub-01_stim-p03_hemi-{label}_space-fsaverage5_desc-draws_betas.func.gii"
        image = nib.load(made.folder / "sub-01/func" / name)
        values = np.stack([array.data for array in image.darrays])
        assert values.shape == (2, 10_242)
        np.testing.assert_array_equal(values[:, 500:530], part)
        assert np.isnan(np.delete(values, np.arange(500, 530), axis=1)).all()
        assert image.meta["AnatomicalStructurePrimary"] == f"Cortex{h.capitalize()}"
        name = name.replace("desc-draws_betas", "stat-mean_statmap")
        mean = nib.load(made.folder / "sub-01/func" / name)
        own = expected[:30] if label == "L" else expected[30:]
        np.testing.assert_array_equal(mean.darrays[0].data[500:530], own)
    figures = brain_maps(
        on_surface, "flatmap", Selection(responses=made.folder), run=RunContext(progress=QUIET)
    )
    assert all(file.exists() for file in figures.files)


def test_responses_in_every_space_within_reach(trained, pictures, tmp_path):
    brain = load_model(trained.weights / "sub-01", "cpu")
    assert set(brain.voxel_space.other_spaces) == {"fsaverage5", "fsnative", "MNI"}
    made = synthesize(
        trained,
        brain.folder,
        pictures / "p00.png",
        Drawing(2),
        Output(tmp_path / "out", ["fsnative", "MNI"]),
        RunContext(progress=QUIET),
    )
    mean = brain.mean(pictures / "p00.png")[0]
    for hemisphere, label in (("left", "L"), ("right", "R")):
        name = f"sub-01/func/sub-01_stim-p00_hemi-{label}_space-fsnative_stat-mean_statmap.func.gii"
        found = nib.load(made.folder / name).darrays[0].data
        expected = brain.to_surface(mean, "fsnative")[hemisphere]
        np.testing.assert_array_equal(found, np.float32(expected))
        assert not list(made.folder.rglob("*space-fsaverage5*"))
    name = "sub-01/func/sub-01_stim-p00_space-MNI152NLin6Asym_stat-mean_statmap.nii.gz"
    image = nib.load(made.folder / name)
    assert image.shape == (91, 109, 91)
    np.testing.assert_array_equal(image.affine[:3, :3], 2 * np.eye(3))
    with pytest.raises(InputError, match="can be resampled to fsaverage5, fsnative, MNI"):
        synthesize(
            trained,
            brain.folder,
            pictures,
            output=Output(spaces=["fsaverage"]),
            run=RunContext(progress=QUIET),
        )


def test_the_left_hemispheres_responses_stay_left(trained):
    """A map of the voxels' own side reaches the vertices, and the half of MNI, on that side.

    fsaverage's coordinates stand for MNI's in the simulation, so both sides are known.
    """
    brain = load_model(trained.weights / "sub-01", "cpu")
    x = nib.affines.apply_affine(
        brain.voxel_space.geometry.mask.affine, brain.voxels[["i", "j", "k"]].to_numpy(float)
    )[:, 0]
    surface = brain.to_surface(x)
    for hemisphere, sign in (("left", -1), ("right", 1)):
        reached = np.isfinite(surface[hemisphere])
        truth = fsaverage("white")[hemisphere].coordinates[reached, 0]
        assert (sign * surface[hemisphere][reached] > 0).mean() > 0.95
        assert np.corrcoef(surface[hemisphere][reached], truth)[0, 1] > 0.8
    volume = brain.to_mni(x)
    values = np.asarray(volume.dataobj)
    place = nib.affines.apply_affine(volume.affine, np.argwhere(values != 0))[:, 0]
    assert np.corrcoef(values[values != 0], place)[0, 1] > 0.95


def test_training_on_a_part_of_the_mask(prepared, tmp_path, pictures):
    """A union of ROIs prepared, trained and written back on the whole grid."""
    workspace = Workspace(tmp_path)
    choice = Choice(rois=("V1", "floc-faces"), standardize="train", split="shared1000")
    result = prepare_nsd(
        Target(workspace, "nsd", ("gabor",)),
        NSDSource(prepared.root / "simulated", [1], choice=choice, download=False),
        RunContext(progress=QUIET),
    )
    store = workspace.find_tokens("nsd", None, QUIET.info)
    run = RunContext(progress=QUIET)
    train(workspace, result.subjects[0], store, TrainSettings(preset="test"), run)
    brain = load_model(workspace.weights / "sub-01", "cpu")
    whole = prepared.find_subject("1", None, QUIET.info)
    image = brain.to_nifti(brain.mean(pictures / "p00.png"))
    assert image.shape[:3] == whole.voxel_space.geometry.inside.shape
    here = (np.asarray(image.dataobj) != 0).any(-1)
    assert 0 < here.sum() == brain.n_voxels < whole.n_voxels
    assert (here <= whole.voxel_space.geometry.inside).all()


@pytest.mark.parametrize("kind", ["nowhere", "on_surface"])
def test_receptive_fields_of_subjects_without_a_volume(kind, request, tmp_path):
    workspace = request.getfixturevalue(kind)
    brain, run = load_model(workspace.weights / "sub-01", "cpu"), RunContext(progress=QUIET)
    settings = MappingSettings(n_textures=1)
    made = localize_prf(workspace, brain, settings, output=tmp_path / "prf", run=run)
    assert len(made.table) == N_VERTICES
    assert (made.folder / "prf.json").exists()
    assert not list(made.folder.rglob("*.nii.gz"))
    surfaces = sorted(path.name for path in made.folder.rglob("*.gii"))
    if kind == "nowhere":
        assert surfaces == []
        assert not list(made.folder.rglob("*flatmap*"))
        return
    assert len(surfaces) == 2 * 4
    left = made.folder / "sub-01/func/sub-01_hemi-L_space-fsaverage5_stat-r2_statmap.func.gii"
    np.testing.assert_allclose(nib.load(left).agg_data()[500:530], made.table["r2"][:30], rtol=1e-5)
