"""What commands write is a derivative of BIDS, by the judgement of its validator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tiny

from synbrain_cli.brain import load_model
from synbrain_cli.pipeline.map_writer import MapWriter

ROOT = Path(__file__).parents[2]
# Of what the validator warns: who the authors are is for the user to say; a selection has no files
# of a subject, and a bundle a card in place of a README.
AUTHORS = "TOO_FEW_AUTHORS"
WARNINGS = {
    "select": {AUTHORS, "SUBJECT_FOLDERS"},
    "adapt": {AUTHORS, "SUBJECT_FOLDERS", "README_FILE_MISSING"},
}
COMMANDS = {
    "synthesize": "synthesize raw/some --device cpu --samples 3 --model one --output outputs/a",
    "contrast": "contrast raw/first raw/second --model one --permutations 50 --output outputs/b "
    "--experiment trials=4,sessions=1,simulations=20",
    "categories": "localize categories raw/first raw/second raw/third --model one "
    "--permutations 50 --output outputs/c",
    "prf": "localize prf --model one --textures 1 --output outputs/d",
    "select": "select raw/images --model one --drive voxel:12 --top 4 --output outputs/e",
    "adapt": f"{tiny.ADAPT} --subject 2 --hours 1 --from one --device cpu --name adapted",
}
FOLDERS = dict(zip(COMMANDS, ["outputs/" + c for c in "abcde"] + ["weights/adapted"], strict=True))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A workspace with the model ``one``, and what every command writes with it."""
    root = tmp_path_factory.mktemp("bids")
    messages = tmp_path_factory.mktemp("messages")
    tiny.write_raw(root / "raw")
    train = f"{tiny.TRAIN} 1 --model linear --name one"
    for command in (tiny.prepare(1), tiny.prepare(2), train, *COMMANDS.values()):
        done = tiny.run(root, messages, command.split())
        assert done.returncode == 0, (command, done.stderr)
    return root


def validate(folder: Path) -> dict[str, list[str]]:
    """Code of each issue, with its severity in front → the files that it is about."""
    pytest.importorskip("bids_validator_deno", reason="bids-validator-deno is not installed")
    options = ("--datasetTypes", "derivative", "--format", "json", "--max-rows", "-1")
    quiet = os.environ | {"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    validator = [sys.executable, "-c", "from bids_validator_deno import cli; cli()"]
    done = subprocess.run(
        [*validator, folder, *options], capture_output=True, text=True, env=quiet, timeout=120
    )
    try:
        issues = json.loads(done.stdout)["issues"]["issues"]
    except json.JSONDecodeError:
        pytest.skip(f"bids-validator-deno does not run here: {done.stderr.strip()[:200]}")
    found: dict[str, list[str]] = {}
    for issue in issues:
        found.setdefault(f"{issue['severity']} {issue['code']}", []).append(issue["location"])
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_the_validator_accepts_what_a_command_writes(workspace, command):
    found = validate(workspace / FOLDERS[command])
    assert {code.removeprefix("warning ") for code in found} == WARNINGS.get(command, {AUTHORS})


@pytest.mark.parametrize("command", COMMANDS)
def test_only_names_that_bids_does_not_have_are_ignored(workspace, tmp_path, command):
    folder = shutil.copytree(workspace / FOLDERS[command], tmp_path / "copy")
    (folder / ".bidsignore").unlink()
    seen = [*folder.rglob("sub-*_mask.*"), *folder.rglob("*_dseg.*"), folder / "README.md"]
    seen = {file.relative_to(folder) for file in [*seen, folder / "dataset_description.json"]}
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    others = {path for path in files if path not in seen and not path.name.startswith(".")}
    found, wrong = validate(folder), set()
    for code, names in found.items():  # of a mask with another name, the validator warns
        if code.startswith("error") or code == "warning SIDECAR_KEY_RECOMMENDED":
            wrong |= {Path(name.strip("/")) for name in names}
    assert others == {path for path in others if wrong & {path, *path.parents}}
    assert not wrong & seen


def test_pictures_of_other_commands_and_subjects_on_surfaces(workspace, tmp_path):
    folder = shutil.copytree(workspace / FOLDERS["synthesize"], tmp_path / "copy")
    (folder / "figures").mkdir()
    for name in ("figures/a.png", "figures/b.svg", "report.html"):
        (folder / name).write_text("a picture")
    assert set(validate(folder)) == {f"warning {AUTHORS}"}
    for path in [*folder.rglob("*.nii.gz"), *folder.rglob("*_mask.json")]:
        path.unlink()
    base = folder / "sub-01/func/sub-01_stim-a_hemi-L_space-fsaverage"
    for name in ("desc-draws_betas", "stat-mean_statmap"):
        Path(f"{base}_{name}.func.gii").write_text("a surface")
    assert set(validate(folder)) == {f"warning {AUTHORS}"}


def test_the_validator_looks_into_masks_and_regions(workspace, tmp_path):
    folder = shutil.copytree(workspace / FOLDERS["categories"], tmp_path / "copy")
    (mask,) = folder.rglob("*_desc-voxels_mask.nii.gz")
    mask.write_bytes(mask.read_bytes()[:20])
    (regions,) = folder.rglob("*_dseg.json")
    regions.unlink()
    found = validate(folder)
    assert any(code.startswith("error") for code in found)
    assert any("dseg" in name for name in found["warning SIDECAR_KEY_RECOMMENDED"])


@pytest.mark.parametrize("command", ["synthesize", "contrast", "categories", "prf"])
def test_masks_name_the_voxels_of_the_model(workspace, command):
    folder, brain = workspace / FOLDERS[command], load_model(workspace / "weights/one", "cpu")
    image = nib.load(folder / "sub-01/func/sub-01_task-tiny_desc-voxels_mask.nii.gz")
    own = nib.load(brain.folder / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(own.dataobj))
    np.testing.assert_array_equal(image.affine, own.affine)


def test_regions_are_the_categories_of_the_table(workspace, tmp_path):
    folder = workspace / FOLDERS["categories"]
    base = folder / "sub-01/func/sub-01_task-tiny_desc-preferred_dseg"
    names = pd.read_csv(f"{base}.tsv", sep="\t").set_index("index")["name"]
    assert names.to_dict() == {1: "first", 2: "second", 3: "third"}
    brain = load_model(workspace / "weights/one", "cpu")
    # Which are significant depends on the data: of all voxels, and of none
    preferred = np.array([k % 3 if k else np.nan for k in range(brain.n_voxels)])
    MapWriter(tmp_path, brain).write_regions("preferred", preferred, list(names), "test")
    (file,) = tmp_path.rglob("*_dseg.nii.gz")
    mask = np.asarray(nib.load(brain.folder / "mask.nii.gz").dataobj) > 0
    labels = np.asarray(nib.load(file).dataobj)
    assert labels[mask].tolist() == [0, *(1 + k % 3 for k in range(1, brain.n_voxels))]
    assert not labels[~mask].any()


def test_the_significant_voxels_are_those_of_the_table(workspace):
    folder = workspace / FOLDERS["contrast"]
    image = nib.load(folder / "sub-01/func/sub-01_task-tiny_desc-significant_mask.nii.gz")
    mask = np.asarray(nib.load(workspace / "weights/one/mask.nii.gz").dataobj) > 0
    table = pd.read_csv(folder / "voxels.tsv", sep="\t")
    expected = (table["p_corrected"] < 0.05).to_numpy()
    np.testing.assert_array_equal(np.asarray(image.dataobj)[mask] > 0, expected)


def test_every_map_has_a_sidecar(workspace):
    for command in ("synthesize", "contrast", "categories", "prf"):
        func = workspace / FOLDERS[command] / "sub-01/func"
        for path in func.glob("*_statmap.nii.gz"):
            name = path.name.removesuffix(".nii.gz")
            shared = "_".join(part for part in name.split("_") if not part.startswith("stim-"))
            described = json.loads((func / f"{shared}.json").read_text())
            assert described["Description"]
            assert described["Unit"]


def test_models_are_named_as_seen_from_the_folder(workspace):
    for command in ("synthesize", "contrast", "categories", "prf", "select"):
        folder = workspace / FOLDERS[command]
        described = json.loads((folder / "dataset_description.json").read_text())
        (source,) = described["SourceDatasets"]
        model = (folder / source["URL"]).resolve()
        assert model == workspace / "weights/one"
        assert json.loads((model / "config.json").read_text())["fingerprint"] == source["Version"]
        assert described["DatasetLinks"] == {"model": source["URL"]}


@pytest.mark.parametrize("command", ["synthesize", "contrast", "categories", "prf"])
def test_pybids_finds_every_map_and_its_own_sidecar(workspace, command):
    bids = pytest.importorskip("bids", reason="pybids is not installed")
    names = ["bids", "derivatives", str(ROOT / "docs/pybids.json")]
    folder = str(workspace / FOLDERS[command])
    layout = bids.BIDSLayout(folder, validate=False, is_derivative=True, config=names)
    found = layout.get(suffix="statmap", extension=".nii.gz")
    written = Path(folder).rglob("*_statmap.nii.gz")
    assert {one.filename for one in found} == {path.name for path in written}
    described = {}
    for one in found:
        entities, metadata = one.get_entities(), one.get_metadata()
        assert entities["subject"] == "01"
        assert f"stat-{entities['stat']}_" in one.filename
        described.setdefault(metadata["Description"], set()).add(
            (entities.get("contrast"), entities["stat"])
        )
    assert all(len(maps) == 1 for maps in described.values())
