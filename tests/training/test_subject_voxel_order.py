"""The order in which BrainVAE meets a subject's voxels: where it comes from, and that it stays."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUIET
from msgspec.structs import replace
from preset import TEST_PRESET
from typer.testing import CliRunner

from synbrain_cli import cli, load_model
from synbrain_cli.config import PRESETS, StageConfig
from synbrain_cli.errors import InputError
from synbrain_cli.io.arrays import load_arrays
from synbrain_cli.io.files import read_json
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.prepared_tables import roi_collections
from synbrain_cli.io.surface import fsaverage
from synbrain_cli.io.voxel_space import Vertices
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.order import ORDERS, neighbour_distance
from synbrain_cli.training.voxel_order import default_order, subject_order

# Their seals have tests of their own: tests/io/test_seals.py.
pytestmark = pytest.mark.usefixtures("unsealed")

KINDS = ("file", "curve", "region", "surface")


@pytest.fixture(scope="module")
def subject(prepared):
    return prepared.find_subject("1", None, QUIET.info)


@pytest.fixture
def without(subject, tmp_path):
    """The subject, some of its files taken away."""

    def remove(*names):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}/simulated/sub-01"
        shutil.copytree(subject.folder, folder, ignore=shutil.ignore_patterns(*names))
        return PreparedSubject(folder)

    return remove


def positions(subject):
    """In mm, by nibabel's own arithmetic."""
    from nibabel.affines import apply_affine

    return apply_affine(
        subject.voxel_space.geometry.mask.affine, subject.voxels[["i", "j", "k"]].to_numpy()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_voxel_is_met_once(subject, kind):
    order = subject_order(subject, kind)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(subject.n_voxels))
    assert (order != np.arange(subject.n_voxels)).any() == (kind != "file")


def test_all_kinds_are_known_and_differ(subject):
    assert set(KINDS) == set(ORDERS)
    assert len({subject_order(subject, kind).tobytes() for kind in KINDS}) == 4


def test_regions_are_met_one_after_another(subject):
    """A voxel's region is that of the first collection of labels that names one."""
    labels = subject.voxels[roi_collections(subject.voxels)].to_numpy(str)
    region = np.array([next((label for label in row if label), "") for row in labels])
    met = region[subject_order(subject, "region")]
    runs = met[np.r_[True, met[1:] != met[:-1]]]
    assert len(runs) == len(set(runs)) > 5
    assert "" not in runs[:-1]  # voxels of no region are last
    # File order mixes them.
    assert (region[1:] != region[:-1]).sum() > 3 * len(runs)


def test_neighbours_along_the_curve_are_neighbours_in_the_brain(subject):
    points = positions(subject)
    distance = {
        kind: neighbour_distance(subject_order(subject, kind), points) for kind in ("file", "curve")
    }
    assert distance["curve"] < 0.9 * distance["file"]


def test_on_the_surface_a_volume_is_met_by_hemisphere_and_by_place_on_the_sphere(subject):
    weights = subject.voxel_space.surface_resampling.weights_to("fsaverage5")
    mass = np.stack([np.asarray(weights[h].sum(0)).ravel() for h in ("left", "right")])
    reached = mass.max(0) > 0
    right = mass[1] > mass[0]
    order = subject_order(subject, "surface")
    sides = right[order][reached[order]]
    assert sides.any()
    assert not sides.all()
    assert (np.diff(sides.astype(int)) >= 0).all()
    # The vertex that a voxel reaches most.
    sphere = fsaverage("sphere", "fsaverage5")
    most = [np.asarray(weights[h].argmax(0)).ravel() for h in ("left", "right")]
    places = np.where(
        right[:, None], sphere["right"].coordinates[most[1]], sphere["left"].coordinates[most[0]]
    )
    for side in (False, True):
        some = reached & (right == side)
        steps = {
            kind: neighbour_distance(
                np.argsort(np.argsort(subject_order(subject, kind))[some]), places[some]
            )
            for kind in ("surface", "file")
        }
        assert steps["surface"] < 0.8 * steps["file"]


@pytest.fixture
def on_surface(tmp_path):
    """Vertices of fsaverage5 as a prepared subject has them: alternate ones of a stretch."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "mine/sub-01"
    folder.mkdir(parents=True)
    place = Vertices(
        np.sort(rng.choice(10_242, 60, replace=False)),
        np.sort(rng.choice(10_242, 50, replace=False)),
        {"left": 10_242, "right": 10_242},
        "fsaverage5",
    )
    save_subject(folder, place)
    return PreparedSubject(folder)


def save_subject(folder, place):
    place.save(folder)
    table = place.table()
    table["ncsnr"], table["area"] = 0.5, ["V1", "V2"] * (len(table) // 2)
    table.to_csv(folder / "voxels.tsv", sep="\t", index=False)
    np.save(folder / "betas.npy", np.zeros((2, len(table)), np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_orders_of_vertices(on_surface, kind):
    order = subject_order(on_surface, kind)
    assert sorted(order.tolist()) == list(range(110))
    place, sphere = on_surface.voxel_space.geometry, fsaverage("sphere", "fsaverage5")
    if kind in ("curve", "surface"):
        assert order[:60].max() < 60 <= order[60:].min()  # left, then right
    if kind == "surface":
        for h, some in (("left", order[:60]), ("right", order[60:] - 60)):
            coordinates = sphere[h].coordinates[getattr(place, h)]
            by_file = neighbour_distance(np.arange(len(some)), coordinates)
            assert neighbour_distance(some, coordinates) < 0.7 * by_file
    if kind == "region":
        assert (np.diff(order % 2) >= 0).all()
    assert default_order(on_surface) == "surface"


def test_a_surface_of_unknown_geometry_leaves_the_regions(tmp_path):
    folder = tmp_path / "mine/sub-01"
    folder.mkdir(parents=True)
    vertices = np.arange(5, 25)
    save_subject(folder, Vertices(vertices, vertices, {"left": 40, "right": 40}, "fsnative"))
    subject = PreparedSubject(folder)
    for kind in ("curve", "surface"):
        with pytest.raises(InputError, match=rf"--voxel-order {kind}: .*fsnative, is not known"):
            subject_order(subject, kind)
    assert default_order(subject) == "region"


def test_regions_need_no_geometry(tmp_path):
    folder = tmp_path / "mine/sub-01"
    folder.mkdir(parents=True)
    vertices = np.arange(5, 25)
    save_subject(folder, Vertices(vertices, vertices, {"left": 40, "right": 40}, "fsnative"))
    order = subject_order(PreparedSubject(folder), "region")
    np.testing.assert_array_equal(order, np.r_[0:40:2, 1:40:2])


def test_without_transforms_there_is_no_surface_to_follow(without):
    person = without("surface_resampling.npz")
    with pytest.raises(InputError) as caught:
        subject_order(person, "surface")
    message = str(caught.value)
    assert message.startswith("--voxel-order surface: ")
    assert str(person.folder) in message
    assert "pass --voxel-order file, or leave the option out" in message
    for kind in ("file", "curve", "region"):
        np.testing.assert_array_equal(subject_order(person, kind), subject_order(without(), kind))


def test_without_a_mask_or_regions_there_is_less_to_go_by(without):
    person = without("surface_resampling.npz", "mask.nii.gz")
    for kind in ("curve", "surface"):
        with pytest.raises(InputError, match=f"--voxel-order {kind}"):
            subject_order(person, kind)
    table = person.voxels.drop(columns=roi_collections(person.voxels))
    table.to_csv(person.folder / "voxels.tsv", sep="\t", index=False)
    person = PreparedSubject(person.folder)
    with pytest.raises(InputError, match=r"--voxel-order region: .*regions"):
        subject_order(person, "region")
    np.testing.assert_array_equal(subject_order(person, "file"), np.arange(person.n_voxels))


def test_an_unknown_kind_is_refused(subject):
    with pytest.raises(
        InputError,
        match="--voxel-order zigzag: expected auto or one of file, curve, region, surface",
    ):
        subject_order(subject, "zigzag")


def test_the_default_is_the_best_that_the_files_allow(subject, without):
    assert default_order(subject) == "surface"
    assert default_order(without("surface_resampling.npz")) == "region"
    for files, expected in (
        (("surface_resampling.npz",), "curve"),
        (("surface_resampling.npz", "mask.nii.gz"), "file"),
    ):
        person = without(*files)
        table = person.voxels.drop(columns=roi_collections(person.voxels))
        table.to_csv(person.folder / "voxels.tsv", sep="\t", index=False)
        assert default_order(PreparedSubject(person.folder)) == expected


@pytest.mark.parametrize("kind", ["surface", "region", "curve"])
def test_a_damaged_file_is_not_taken_for_unknown_places(without, kind):
    """A model of another order would be trained, and nobody told."""
    person = without()
    path = person.folder / "voxels.tsv"
    path.write_text(path.read_text().replace("\n", "\n \n", 1))
    damaged = PreparedSubject(person.folder)
    with pytest.raises(InputError, match="row 2 is empty"):
        subject_order(damaged, kind)
    with pytest.raises(InputError, match="row 2 is empty"):
        default_order(damaged)


# ------------------------------------------------------------------------- in a model


@pytest.fixture(scope="module")
def curved(prepared, tmp_path_factory):
    """A model of subject 1 trained, for a moment, along the curve."""
    workspace = Workspace(tmp_path_factory.mktemp("curve"))
    workspace.prepared.symlink_to(prepared.prepared)
    stage = StageConfig(1, 64, 2e-3, 0.01)
    PRESETS["moment"] = replace(
        TEST_PRESET, name="moment", vae_stage=stage, mapper_stage=replace(stage, ema_decay=0.9)
    )
    options = ["--preset", "moment", "--voxel-order", "curve", "--device", "cpu", "-q"]
    place = ["-w", str(workspace.root)]
    try:
        result = CliRunner().invoke(cli.app, ["train", "--subject", "1", *options, *place])
    finally:
        del PRESETS["moment"]
    assert result.exit_code == 0, result.output
    return workspace.weights / "sub-01"


@pytest.fixture(scope="module")
def curved_brain(curved):
    return load_model(curved, "cpu")


def test_the_order_is_kept_with_the_weights(curved, curved_brain, subject):
    expected = subject_order(subject, "curve")
    np.testing.assert_array_equal(
        load_arrays(curved / "networks.safetensors")["vae.order"], expected
    )
    np.testing.assert_array_equal(curved_brain.networks.vae.order.numpy(), expected)
    assert curved_brain.config.voxel_order == "curve"
    assert read_json(curved / "settings.json")["voxel_order"] == "curve"


def test_left_out_the_option_means_the_best(trained, subject):
    full = load_model(trained.weights / "sub-01", "cpu")
    assert full.config.voxel_order == "surface"
    np.testing.assert_array_equal(
        full.networks.vae.order.numpy(), subject_order(subject, "surface")
    )


@torch.inference_mode()
def test_what_is_decoded_is_in_file_order(curved_brain, subject, prepared):
    vae, n_voxels = curved_brain.networks.vae, curved_brain.n_voxels
    order = subject_order(subject, "curve")
    store = prepared.find_tokens("simulated", None, QUIET.info)
    tokens = store.take(subject.select("test").images[:5])
    latent = torch.cat([curved_brain.latent(token) for token in tokens.one_by_one()])
    along = vae.decoder(vae.from_latent(latent), n_voxels).squeeze(1).numpy()
    expected = np.empty_like(along)
    expected[:, order] = along
    np.testing.assert_array_equal(vae.decode(latent, n_voxels).numpy(), expected)
    predicted = curved_brain.predict("deep", tokens, "z")
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(along - expected).max() > 1e-3 * along.std()


@torch.inference_mode()
def test_what_is_encoded_is_met_along_the_order(curved_brain, subject):
    y = torch.from_numpy(subject.select("test").betas[:5])
    posterior = curved_brain.networks.vae.encode(y)
    plain = copy.deepcopy(curved_brain.networks.vae)
    plain.lay_out(None)
    order = torch.from_numpy(subject_order(subject, "curve"))
    torch.testing.assert_close(posterior.mean, plain.encode(y[:, order]).mean)
    assert (posterior.mean - plain.encode(y).mean).abs().max() > 1e-4
    with pytest.raises(InputError, match="lay_out another order"):
        curved_brain.networks.vae.encode(y[:, :-1])


@pytest.fixture
def refused(without, prepared, synbrain, tmp_path):
    """A workspace in which an order was asked for that the files do not allow."""
    person = without("surface_resampling.npz")
    root = tmp_path / "workspace"
    (root / "prepared").mkdir(parents=True)
    person.folder.parent.rename(root / "prepared/simulated")
    features = prepared.prepared / "simulated/features"
    (root / "prepared/simulated/features").symlink_to(features)
    command = ["train", "--subject", "1", "--preset", "test", "-w", root]
    return root, synbrain(*command, "--voxel-order", "surface")


def test_an_order_that_the_files_do_not_allow_is_refused(refused):
    root, (code, _, error) = refused
    assert code == 1
    last = error.splitlines()[-1]
    assert last.startswith("synbrain: --voxel-order surface: ")
    assert "pass --voxel-order file, or leave the option out" in last
    assert not list(root.glob("weights/[!.]*"))


def test_leaving_the_option_out_is_then_possible(refused, synbrain):
    """Nothing was trained: there is nothing to continue or to overwrite."""
    root, _ = refused
    command = ["train", "--subject", "1", "--model", "linear", "--name", "sub-01", "-w", root]
    code, _, error = synbrain(*command)
    assert code == 0, error


def test_places_are_read_from_the_table_of_voxels(subject, without):
    """The order follows the voxels when the file lists them in another order."""
    person = without("surface_resampling.npz")
    shuffled = np.random.default_rng(0).permutation(subject.n_voxels)
    object.__setattr__(
        person, "voxels", pd.DataFrame(subject.voxels.iloc[shuffled]).reset_index(drop=True)
    )
    met = positions(subject)[shuffled][subject_order(person, "curve")]
    np.testing.assert_allclose(met, positions(subject)[subject_order(subject, "curve")])
