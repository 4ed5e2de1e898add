"""What was written is told from what was changed since: bundles, prepared data, tokens."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from conftest import QUIET
from sealing import change_sealed, reseal_bundle, reseal_prepared

from synbrain_cli import load_model
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.arrays import load_arrays, load_expected, save_arrays
from synbrain_cli.io.bundle import fingerprint, read_config
from synbrain_cli.io.bundle_checks import find_faults, read_verified_config
from synbrain_cli.io.files import read_json
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import BandStore
from synbrain_cli.io.workspace import Workspace


def flip(path, place: float = 0.5) -> None:
    """Invert a bit of a file, at a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 64
    path.write_bytes(content)


@pytest.fixture
def bundle(linear_bundles, tmp_path):
    return shutil.copytree(linear_bundles["1"], tmp_path / "weights/a")


@pytest.fixture
def person(prepared, tmp_path):
    folder = tmp_path / "prepared/simulated/sub-01"
    return PreparedSubject(shutil.copytree(prepared.prepared / "simulated/sub-01", folder))


@pytest.fixture
def own_store(prepared, tmp_path):
    folder = tmp_path / "prepared/simulated/features/gabor"
    return BandStore(shutil.copytree(prepared.prepared / "simulated/features/gabor", folder))


# ------------------------------------------------------------------------------- bundles


@pytest.mark.parametrize(
    "change",
    [
        {"simulated": False},
        {"recorded_unit": "volts"},
        {"fingerprint": "0" * 16},
        {"unit": "mV"},
        {"training": {"versions": {}}},
    ],
)
def test_a_configuration_changed_by_hand_is_told(bundle, change):
    path = bundle / "config.json"
    path.write_text(json.dumps(read_json(path) | change))
    for read in (read_config, load_model):
        with pytest.raises(InputError, match=r"config\.json: expected the content that was writ"):
            read(bundle)
    (fault,) = find_faults(bundle)
    assert "config.json" in fault


def test_spaces_and_the_order_of_fields_change_nothing(bundle):
    path = bundle / "config.json"
    before = read_config(bundle)
    path.write_text(json.dumps(dict(reversed(read_json(path).items()))))
    assert read_verified_config(bundle) == before


def test_the_fingerprint_follows_from_the_weights(bundle):
    change_sealed(bundle / "config.json", fingerprint="0" * 16)
    with pytest.raises(InputError, match="expected the fingerprint of the weights beside it"):
        load_model(bundle)
    (fault,) = find_faults(bundle)
    assert "fingerprint" in fault


@pytest.mark.parametrize(
    "name", ["/dev/zero", "../a/voxels.tsv", "..", ".", "", "sources/x", "a\nb", "x" * 300]
)
def test_names_of_files_are_no_paths(bundle, name):
    checksums = read_json(bundle / "config.json")["checksums"] | {name: "0" * 64}
    change_sealed(bundle / "config.json", checksums=checksums)
    with pytest.raises(InputError, match=r"config\.json: .*checksums"):
        load_model(bundle)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link elsewhere", "broken link"])
def test_files_of_a_bundle_are_regular_files_in_it(bundle, tmp_path, kind):
    path = bundle / "mni_resampling.npz"
    shutil.move(path, tmp_path / "elsewhere.npz")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        targets = {"device": "/dev/zero", "link elsewhere": tmp_path / "elsewhere.npz"}
        path.symlink_to(targets.get(kind, tmp_path / "nothing"))
    with pytest.raises(SynbrainError, match=r"mni_resampling\.npz"):
        load_model(bundle)
    assert [fault for fault in find_faults(bundle) if "mni_resampling.npz" in fault]


def test_a_file_that_is_not_listed_is_not_read(bundle):
    (bundle / "vertices.npz").write_bytes(b"planted")
    with pytest.raises(InputError, match=r"vertices\.npz: config\.json does not list it"):
        load_model(bundle)


def test_a_file_that_is_needed_must_be_listed(bundle):
    checksums = read_json(bundle / "config.json")["checksums"]
    del checksums["readout.safetensors"]
    change_sealed(bundle / "config.json", checksums=checksums)
    with pytest.raises(InputError, match=r"readout\.safetensors: config\.json does not list it"):
        load_model(bundle)


# Values of the right type that no model has.
IMPOSSIBLE = [
    {"predictors": []},
    {"predictors": ["deep"]},
    {"predictors": ["linear", "linear"]},
    {"fingerprint": "Z" * 16},
    {"subject": "../01"},
    {"dataset": ""},
    {"checksums": []},
    {"checksums": None},
    {"bands": []},
    {"bands": [{"spec": "gabor", "identity": {}}]},
    {"bands": [{"spec": "gabor", "identity": {"n_tokens": 10**12}}]},
    {"bands": [{"spec": "gabor", "identity": [], "precision": "float32"}]},
    {"bands": {"spec": "gabor", "identity": {}}},
    {"vae": {"n_tokens": -1}},
    {"transfer": {"kind": "shared-core"}},
    {"transfer": {"kind": "source-map", "sources": ["../x"], "fingerprints": ["0"]}},
    {"training": {"versions": {}, "n_trials": {"train": -1}}},
    {"training": None},
    {"space": None},
    {"simulated": "yes"},
    {"format": None},
    {"format": 10**400},
]


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=[str(c)[:50] for c in IMPOSSIBLE])
def test_impossible_values_are_refused_in_one_line(bundle, change):
    change_sealed(bundle / "config.json", **change)
    with pytest.raises(InputError, match=r"config\.json: expected") as caught:
        load_model(bundle)
    assert "\n" not in str(caught.value)


NETWORKS = [
    ("vae", {"channels": 33}),
    ("vae", {"channels": 10**9}),
    ("vae", {"multipliers": []}),
    ("vae", {"multipliers": [10**9]}),
    ("vae", {"n_res_blocks": 10**9}),
    ("vae", {"n_scales": 10**9}),
    ("vae", {"n_tokens": 512}),
    ("mapper", {"depth": 10**9}),
    ("mapper", {"depth": 0}),
    ("mapper", {"n_heads": 7}),
    ("mapper", {"mlp_ratio": float("nan")}),
    ("mapper", {"mlp_ratio": float("inf")}),
    ("mapper", {"mlp_ratio": -1}),
    ("mapper", None),
]


@pytest.mark.parametrize(("part", "change"), NETWORKS, ids=[str(c)[:50] for c in NETWORKS])
def test_impossible_networks_are_refused_before_they_are_built(trained, tmp_path, part, change):
    folder = shutil.copytree(trained.weights / "sub-01", tmp_path / "sub-01")
    config = read_json(folder / "config.json")
    change_sealed(folder / "config.json", **{part: change and config[part] | change})
    with pytest.raises(InputError, match=r"config\.json: expected"):
        load_model(folder, "cpu")


def spoil(path, how):
    """Change the arrays of a file."""
    arrays = {name: array.copy() for name, array in load_arrays(path).items()}
    name = sorted(arrays)[-1]
    if how == "missing":
        del arrays[name]
    elif how == "unknown":
        arrays["more"] = np.zeros(3, np.float32)
    elif how == "shape":
        arrays[name] = arrays[name][..., :-1].copy()
    elif how == "dtype":
        arrays[name] = arrays[name].astype(np.float64)
    else:
        arrays[name].flat[-1] = np.nan if how == "nan" else np.inf
    save_arrays(path, arrays)


@pytest.mark.parametrize("how", ["missing", "unknown", "shape", "dtype", "nan", "infinite"])
@pytest.mark.parametrize("name", ["arrays", "linear", "readout", "networks"])
def test_arrays_are_those_that_the_configuration_describes(trained, tmp_path, name, how):
    """Sealed anew: only the arrays themselves can tell."""
    folder = shutil.copytree(trained.weights / "sub-01", tmp_path / "sub-01")
    spoil(folder / f"{name}.safetensors", how)
    reseal_bundle(folder, fingerprint=fingerprint(folder))
    with pytest.raises(InputError, match=rf"{name}\.safetensors: ") as caught:
        _ = load_model(folder, "cpu").predictors.linear
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("readout", "uncertainty_level"),
        ("linear", "ridge.0.known.powers"),
        ("linear", "field.0.axes"),
    ],
)
def test_what_models_may_lack_is_there_as_a_whole_or_not_at_all(trained, tmp_path, file, name):
    folder = shutil.copytree(trained.weights / "sub-01", tmp_path / "sub-01")
    path = folder / f"{file}.safetensors"
    arrays = {key: array.copy() for key, array in load_arrays(path).items()}
    beginning = name.rpartition("_" if file == "readout" else ".")[0]
    part = [key for key in arrays if key.startswith(beginning)]
    save_arrays(path, {key: array for key, array in arrays.items() if key != name})
    reseal_bundle(folder, fingerprint=fingerprint(folder))
    with pytest.raises(InputError, match=rf"{file}\.safetensors: expected the array {name}"):
        _ = load_model(folder, "cpu").predictors.linear
    save_arrays(path, {key: array for key, array in arrays.items() if key not in part})
    reseal_bundle(folder, fingerprint=fingerprint(folder))
    model = load_model(folder, "cpu")
    assert len(model.predictors.linear.ridges) == 1
    if file == "readout":
        assert model.statistics("calibrated") == ["mean", "std", "sem"]


def test_a_readout_of_another_subject_is_refused(bundle, linear_bundles):
    shutil.copy(linear_bundles["2"] / "readout.safetensors", bundle)
    reseal_bundle(bundle, fingerprint=fingerprint(bundle))
    with pytest.raises(InputError, match=r"readout\.safetensors: expected .* of shape"):
        load_model(bundle, "cpu")


def test_sizes_given_as_words_agree(tmp_path):
    path = tmp_path / "x.safetensors"
    save_arrays(path, {"x": np.ones((2, 5), np.float32), "y": np.ones(4, np.float32)})
    assert load_expected(path, {"x": (2, "n"), "y": ("m",)}).keys() == {"x", "y"}
    with pytest.raises(InputError, match=r"expected y of shape \(5,\), found \(4,\)"):
        load_expected(path, {"x": (2, "n"), "y": ("n",)})


# ----------------------------------------------------------------------- one bad of several


@pytest.mark.parametrize("content", ["null", "[]", "{}", "{", "[" * 100_000, "1" * 5000, "\xff"])
def test_a_bad_model_is_no_fault_of_the_others(linear_bundles, tmp_path, synbrain, content):
    workspace = Workspace(tmp_path)
    for name in ("a", "c"):
        shutil.copytree(linear_bundles["1"], workspace.weights / name)
    (workspace.weights / "b").mkdir()
    (workspace.weights / "b/config.json").write_bytes(content.encode("latin-1"))
    code, output, _ = synbrain("weights", "list", "-w", tmp_path)
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()[1:]] == ["a", "b", "c"]
    said = []
    assert workspace.find_model(None, "1", said.append).name == "a"
    assert [path.name for path in workspace.find_models(None, None, QUIET.info)] == ["a", "c"]
    assert [path.name for path, _ in workspace.full_models(None, QUIET.info)] == ["a"]
    assert [line for line in said if "weights/b/config.json" in line]
    code, output, _ = synbrain("weights", "verify", "-w", tmp_path)
    assert (code, len(output.splitlines())) == (1, 1)


def test_bad_tokens_are_no_fault_of_the_others(own_store, tmp_path):
    other = own_store.folder.with_name("another")
    other.mkdir()
    (other / "encoder.json").write_text("[]")
    said = []
    found = Workspace(tmp_path).find_tokens("simulated", None, said.append)
    assert [one.folder.name for one in found.stores] == ["gabor"]
    assert [line for line in said if "another/encoder.json" in line]


# ------------------------------------------------------------------------------ prepared data


USES = {
    "betas.npy": lambda subject: subject.select("train"),
    "trials.tsv": lambda subject: subject.trials,
    "voxels.tsv": lambda subject: subject.voxels,
    "standardization.npz": lambda subject: subject.recorded(subject.select("test")),
    "mask.nii.gz": lambda subject: subject.voxel_space.geometry,
    "surface_resampling.npz": lambda subject: subject.voxel_space.surface_resampling,
    "mni_resampling.npz": lambda subject: subject.voxel_space.mni_resampling,
    "dataset_description.json": lambda subject: subject.checksum,
}


@pytest.mark.parametrize("place", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", USES)
def test_a_changed_file_of_a_prepared_subject_is_told_when_it_is_used(person, name, place):
    assert person.find_faults() == []
    flip(person.folder / name, place)
    with pytest.raises(InputError, match=name):
        USES[name](PreparedSubject(person.folder))
    assert any(name in fault for fault in PreparedSubject(person.folder).find_faults())


@pytest.mark.parametrize("name", USES)
def test_a_missing_file_of_a_prepared_subject_is_told(person, name):
    (person.folder / name).unlink()
    with pytest.raises(MissingError, match=name):
        USES[name](PreparedSubject(person.folder))


def test_a_model_does_not_seal_files_that_were_not_read(person, own_store, synbrain, tmp_path):
    os.truncate(person.folder / "mask.nii.gz", 50)
    command = ["train", "-s", 1, "--model", "linear", "-w", tmp_path, "-q"]
    code, _, error = synbrain(*command)
    assert code == 1
    assert "mask.nii.gz: its checksum is not the one recorded" in error
    assert not list(tmp_path.glob("weights/[!.]*"))


@pytest.mark.parametrize("name", ["mask.nii.gz", "surface_resampling.npz", "mni_resampling.npz"])
def test_files_that_are_copied_are_read_though_their_checksum_fits(person, tmp_path, name):
    """Of a subject that was sealed with damaged files, no model is."""
    path = person.folder / name
    path.write_bytes(path.read_bytes()[:-200])
    reseal_prepared(person.folder)
    with pytest.raises(InputError, match=rf"{name}: "):
        PreparedSubject(person.folder).voxel_space.copy_to(tmp_path)


def test_prepared_data_are_verified_by_command(person, own_store, synbrain, tmp_path):
    command = ["prepare", "--verify", "-w", tmp_path]
    assert synbrain(*command)[:2] == (0, "")
    flip(person.folder / "betas.npy")
    (person.folder / "notes.txt").touch()
    tokens = own_store.folder / "tokens.npy"
    flip(tokens, 0.99)
    code, output, _ = synbrain(*command)
    assert code == 1
    faults = output.splitlines()
    assert len(faults) == 3
    for name in ("betas.npy", "notes.txt", "tokens.npy"):
        assert [line for line in faults if name in line]
    assert synbrain(*command, "--subject", "9")[0] == 1
    assert synbrain("prepare", "-q", "simulated")[0] == 2
    assert synbrain("prepare", "-w", tmp_path)[0] == 2


TABLES = [
    ("trials.tsv", "split", "somewhere"),
    ("trials.tsv", "session", "1e30"),
    ("trials.tsv", "repeat", ""),
    ("voxels.tsv", "ncsnr", "much"),
    ("voxels.tsv", "i", "-"),
]


@pytest.mark.parametrize(("name", "column", "value"), TABLES)
def test_cells_are_of_their_type(person, name, column, value):
    """Sealed anew: only the cells themselves can tell."""
    path = person.folder / name
    head, first, *rest = path.read_text().splitlines()
    cells = first.split("\t")
    cells[head.split("\t").index(column)] = value
    path.write_text("\n".join((head, "\t".join(cells), *rest)) + "\n")
    reseal_prepared(person.folder)
    with pytest.raises(InputError, match=rf"{name}: (row 2: )?expected .*{column}"):
        USES[name](PreparedSubject(person.folder))


def test_a_standardization_of_other_voxels_is_refused(person):
    path = person.folder / "standardization.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"mean": arrays["mean"][:, 1:]})
    reseal_prepared(person.folder)
    with pytest.raises(InputError, match=r"standardization\.npz: expected mean and standard"):
        USES["standardization.npz"](PreparedSubject(person.folder))


# ------------------------------------------------------------------------------------- tokens


def test_tokens_that_are_read_are_those_that_were_written(own_store):
    images = own_store.images
    expected = own_store.take(images[:3])
    flip(own_store.folder / "tokens.npy", 1.0)  # of the last image
    store = BandStore(own_store.folder)
    np.testing.assert_array_equal(store.take(images[:3]), expected)
    with pytest.raises(InputError, match=f"tokens of 1 images .*first: {images[-1]}"):
        store.take(images[-2:])
    (fault,) = store.find_faults()
    assert images[-1] in fault


@pytest.mark.parametrize("column", ["image", "pixels", "checksum"])
def test_names_and_checksums_of_tokens_are_sealed(own_store, column):
    path = own_store.folder / "images.tsv"
    head, first, *rest = path.read_text().splitlines()
    cells = first.split("\t")
    cells[head.split("\t").index(column)] = "other"
    path.write_text("\n".join((head, "\t".join(cells), *rest)) + "\n")
    store = BandStore(own_store.folder)
    with pytest.raises(InputError, match=r"tokens\.npy"):
        store.take(store.images[:1])


def test_the_encoder_of_tokens_is_sealed(own_store):
    path = own_store.folder / "encoder.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(InputError, match=r"encoder\.json: expected the content that was written"):
        _ = BandStore(own_store.folder).band


def test_tokens_of_another_shape_are_refused(own_store):
    path = own_store.folder / "tokens.npy"
    np.save(path, np.load(path)[:, :16])
    with pytest.raises(InputError, match=r"tokens\.npy: expected float32 of shape"):
        own_store.take(own_store.images[:1])
    os.truncate(path, 200)
    with pytest.raises(InputError, match=r"tokens\.npy: truncated or damaged"):
        own_store.take(own_store.images[:1])
