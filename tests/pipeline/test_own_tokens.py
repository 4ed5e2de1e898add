"""Tokens that the user computed are a band like any other, from preparing to drawing."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUIET
from listening import Listening
from test_several_bands import FEW, N_IMAGES, N_VOXELS, RUN, write_raw
from typer.testing import CliRunner

from synbrain_cli import cli, load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.datasets.table import Experiment
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.experiments.conditions import read_conditions
from synbrain_cli.experiments.contrast import ContrastSettings
from synbrain_cli.experiments.selection_aims import SelectionSettings
from synbrain_cli.io.token_files import TokenFile
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.contrast import Plan, contrast_conditions
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.layers import layers
from synbrain_cli.pipeline.plot import Selection
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.select import select_images
from synbrain_cli.pipeline.synthesize import Output, synthesize
from synbrain_cli.pipeline.synthesize_sequence import synthesize_sequence
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext

LINEAR = TrainSettings("linear")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Pictures, responses, and three kinds of tokens of the pictures."""
    folder = tmp_path_factory.mktemp("own-raw")
    write_raw(folder)
    workspace = Workspace(folder)
    result = prepare_table(Target(workspace, "plain", ("gabor",)), experiment(folder), "01", RUN)
    names = sorted(result.tokens.images)
    gabor = result.tokens.take(names).bands[0]
    rng = np.random.default_rng(5)
    np.save(folder / "gab.npy", gabor)
    np.save(folder / "vector.npy", gabor.mean(1) + 0.1 * rng.normal(size=(N_IMAGES, 48)))
    np.save(folder / "odd.npy", gabor[:, :10])
    return SimpleNamespace(folder=folder, names=names, gabor=gabor, plain=workspace)


def experiment(folder, **options):
    options = {"images": folder / "images"} | options
    return Experiment(
        trials=(folder / "trials.tsv",),
        responses=(folder / "responses.npy",),
        test_share=0.3,
        **options,
    )


def prepared(raw, folder, *tokens, encoders=(), run=RUN, **options):
    files = tuple(TokenFile.parse(text) for text in tokens)
    target = Target(Workspace(folder), "own", encoders, tokens=files)
    return prepare_table(target, experiment(raw.folder, **options), "01", run)


def trained(folder, settings=LINEAR, run=RUN, **options):
    workspace = Workspace(folder)
    subject = workspace.find_subject("01", "own", QUIET.info)
    store = workspace.find_tokens("own", None, QUIET.info)
    return train(workspace, subject, store, settings, run, **options).folder


@pytest.fixture(scope="module")
def own(raw, tmp_path_factory):
    """A subject of three bands: tokens, features and gabor; and its linear model."""
    folder = tmp_path_factory.mktemp("own")
    prepared(
        raw, folder, f"{raw.folder}/odd.npy", f"vec={raw.folder}/vector.npy", encoders=("gabor",)
    )
    return SimpleNamespace(workspace=Workspace(folder), model=trained(folder), raw=raw)


def test_tokens_of_an_encoder_score_as_the_encoder_does(raw, tmp_path):
    """To the last digit: linear encoder, receptive fields, response network and draws."""
    prepared(raw, tmp_path, f"{raw.folder}/gab.npy")
    subject = raw.plain.find_subject("01", "plain", QUIET.info)
    store = raw.plain.find_tokens("plain", None, QUIET.info)
    scores, settings = [], TrainSettings("network")
    for workspace, dataset, found in (
        (raw.plain, "plain", (subject, store)),
        (Workspace(tmp_path), "own", None),
    ):
        found = found or (
            workspace.find_subject("01", "own", QUIET.info),
            workspace.find_tokens("own", None, QUIET.info),
        )
        made = train(workspace, *found, settings, RUN, name=f"{dataset}-model")
        brain = load_model(made.folder, "cpu")
        result = evaluate(workspace, brain, *found, FEW, run=RUN)
        scores.append((result.folder / "metrics.tsv").read_text())
    assert scores[0].count("\n") > 20
    assert scores[0] == scores[1]


def test_bands_are_named_and_sealed(own):
    store = own.workspace.find_tokens("own", None, QUIET.info)
    assert store.spec == "gabor + tokens:odd + tokens:vec"
    assert [band.token_shape for band in store.bands] == [(256, 48), (10, 48), (1, 48)]
    assert all(not one.find_faults() for one in store.stores)
    taken = store.take(own.raw.names)
    np.testing.assert_array_equal(taken.bands[1], own.raw.gabor[:, :10])
    assert "".join(store.digests)  # of gabor: pictures guard test images
    one = own.workspace.find_tokens("own", ["tokens:vec"], QUIET.info)
    assert one.spec == "tokens:vec"


def test_the_same_command_keeps_them(own, raw):
    said = Listening()
    run = RunContext(device=torch.device("cpu"), progress=said)
    prepared(raw, own.workspace.root, f"{raw.folder}/odd.npy", run=run)
    assert any("tokens of 50 images, already there" in line for line in said.messages)


def test_other_tokens_of_a_name_are_refused(own, raw, tmp_path):
    np.save(tmp_path / "odd.npy", raw.gabor[:, 10:20])
    with pytest.raises(InputError, match="holds tokens odd of another file"):
        prepared(raw, own.workspace.root, f"{tmp_path}/odd.npy")
    with pytest.raises(InputError, match="--tokens odd: given twice"):
        prepared(raw, tmp_path, f"{tmp_path}/odd.npy", f"{raw.folder}/odd.npy")


def test_a_fault_is_said_before_responses_are_read(raw, tmp_path):
    np.save(tmp_path / "few.npy", raw.gabor[:9])
    with pytest.raises(InputError, match=r"images in .*, 50, in the order of .* found 9 rows"):
        prepared(raw, tmp_path, f"{tmp_path}/few.npy")
    (tmp_path / "few.tsv").write_text("\n".join(raw.names[:9]))
    with pytest.raises(MissingError, match="no tokens of 41 of 50 images"):
        prepared(raw, tmp_path, f"{tmp_path}/few.npy")
    assert not (tmp_path / "prepared").exists()


def test_rows_in_another_order_are_named(raw, tmp_path):
    order = np.random.default_rng(0).permutation(N_IMAGES)
    np.save(tmp_path / "mixed.npy", raw.gabor[order])
    (tmp_path / "mixed.tsv").write_text("\n".join(f"{raw.names[i]}.png" for i in order))
    found = prepared(raw, tmp_path, f"{tmp_path}/mixed.npy").tokens
    np.testing.assert_array_equal(found.take(raw.names).bands[0], raw.gabor)


def test_no_image_files_are_needed(raw, tmp_path):
    """The same model as with them."""
    prepared(raw, tmp_path / "without", f"{raw.folder}/gab.npy", images=None)
    prepared(raw, tmp_path / "with", f"{raw.folder}/gab.npy")
    models = [load_model(trained(tmp_path / name), "cpu") for name in ("without", "with")]
    assert models[0].config.fingerprint == models[1].config.fingerprint
    with pytest.raises(InputError, match="gabor: expected the images, which encoders see"):
        prepared(raw, tmp_path / "no", f"{raw.folder}/gab.npy", encoders=("gabor",), images=None)


def test_without_a_grid_there_is_no_response_network(raw, tmp_path):
    prepared(raw, tmp_path, f"{raw.folder}/vector.npy")
    said = Listening()
    run = RunContext(device=torch.device("cpu"), progress=said)
    folder = trained(tmp_path, TrainSettings(), run)
    assert list(load_model(folder, "cpu").config.predictors) == ["linear"]
    assert any(
        "tokens:vector (1 per image): tokens on no square grid" in line for line in said.messages
    )
    with pytest.raises(InputError, match="the response network needs a band on a square grid"):
        trained(tmp_path, TrainSettings("network"), name="net")


def test_beside_a_grid_the_network_sees_the_grid(own):
    folder = trained(own.workspace.root, TrainSettings("network"), name="net")
    brain = load_model(folder, "cpu", {"odd": own.raw.folder / "odd.npy",
                                       "vec": own.raw.folder / "vector.npy"})  # fmt: skip
    assert set(brain.config.predictors) >= {"linear"}
    pictures = own.raw.folder / "images"
    store = own.workspace.find_tokens("own", None, QUIET.info)
    np.testing.assert_allclose(
        brain.mean(pictures), brain.mean(store.take(own.raw.names)), atol=1e-3
    )


def test_published_networks_take_any_band(own):
    folder = trained(own.workspace.root, TrainSettings("full", preset="test"), name="full")
    brain = load_model(folder, "cpu")
    tokens = own.workspace.find_tokens("own", None, QUIET.info).take(own.raw.names[:2])
    assert np.isfinite(brain.predict("deep", tokens)).all()


# ------------------------------------------------------------------------- new images


@pytest.fixture(scope="module")
def vector(raw, tmp_path_factory):
    """A model that sees no pictures."""
    folder = tmp_path_factory.mktemp("vector")
    prepared(raw, folder, f"vec={raw.folder}/vector.npy")
    return SimpleNamespace(workspace=Workspace(folder), model=trained(folder))


def test_all_forms_of_new_tokens_give_one_response(vector, raw, tmp_path):
    file, values = raw.folder / "vector.npy", np.load(raw.folder / "vector.npy")
    brain = load_model(vector.model, "cpu")
    expected = brain.draw(values.astype(np.float32), 2, seed=4)
    assert expected.shape == (N_IMAGES, 2, N_VOXELS)
    np.testing.assert_array_equal(brain.draw(file, 2, seed=4), expected)
    np.testing.assert_array_equal(brain.draw(values[:, None], 2, seed=4), expected)
    named = load_model(vector.model, "cpu", {"vec": file})
    np.testing.assert_array_equal(named.draw(raw.folder / "images", 2, seed=4), expected)
    drawing, out = Drawing(2, 4), Output(maps=False)
    for k, (images, tokens) in enumerate(
        [
            (file, ()),
            (raw.folder / "images", (TokenFile("vec", file),)),
            (None, (TokenFile("vec", file),)),
        ]
    ):
        made = synthesize(
            vector.workspace,
            vector.model,
            images,
            drawing,
            Output(tmp_path / str(k), maps=out.maps),
            RUN,
            tokens,
        )
        np.testing.assert_array_equal(np.load(made.draws), expected)
        again = synthesize(
            vector.workspace, vector.model, images, drawing,
            Output(tmp_path / str(k), maps=False), RUN, tokens,
        )  # fmt: skip
        assert again.folder == made.folder


def test_other_tokens_are_another_output(vector, raw, tmp_path):
    shutil.copy(raw.folder / "vector.npy", tmp_path / "x.npy")
    out = Output(tmp_path / "out", maps=False)
    synthesize(vector.workspace, vector.model, tmp_path / "x.npy", Drawing(), out, RUN)
    np.save(tmp_path / "x.npy", np.load(tmp_path / "x.npy") + 1)
    with pytest.raises(InputError, match="tokens"):
        synthesize(vector.workspace, vector.model, tmp_path / "x.npy", Drawing(), out, RUN)


def test_pictures_and_tokens_beside_each_other(own):
    """A model of both needs both; draws then depend on the pixels."""
    raw = own.raw
    files = {"odd": raw.folder / "odd.npy", "vec": raw.folder / "vector.npy"}
    brain = load_model(own.model, "cpu", files)
    pictures = raw.folder / "images"
    store = own.workspace.find_tokens("own", None, QUIET.info)
    np.testing.assert_allclose(brain.mean(pictures), brain.mean(store.take(raw.names)), atol=1e-3)
    some = [pictures / f"{raw.names[k]}.png" for k in (7, 2)]
    (raw.folder / "odd.tsv").write_text("\n".join(raw.names))
    (raw.folder / "vector.tsv").write_text("\n".join(raw.names))
    try:
        few = load_model(own.model, "cpu", files)
        np.testing.assert_array_equal(few.mean(some), brain.mean(pictures)[[7, 2]])
    finally:
        (raw.folder / "odd.tsv").unlink()
        (raw.folder / "vector.tsv").unlink()
    with pytest.raises(InputError, match="a row for each of the images, 2"):
        brain.mean(some)
    with pytest.raises(InputError, match="predicts from tokens:odd, tokens of your own"):
        load_model(own.model, "cpu").mean(pictures)
    with pytest.raises(InputError, match=r"its tokens are known .* but not its picture"):
        load_model(own.model, "cpu", {"odd": files["odd"]}).mean(f"vec={files['vec']}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x[:, :5],
            "expected 1 tokens of 48 dimensions per image, .* found 1 tokens of 5",
        ),
        (lambda x: np.where(x == x[3, 3], np.nan, x), "NaN or infinity in row 4"),
        (lambda x: x.astype(int), "expected tokens in float16, float32 or float64, found int64"),
    ],
)
def test_new_tokens_that_do_not_fit(change, message, vector, raw, tmp_path):
    np.save(tmp_path / "x.npy", change(np.load(raw.folder / "vector.npy")))
    with pytest.raises(InputError, match=message):
        load_model(vector.model, "cpu").mean(tmp_path / "x.npy")


def test_arrays_that_are_not_finite(vector):
    with pytest.raises(InputError, match="NaN or infinity in row 2"):
        load_model(vector.model, "cpu").mean(np.array([[0.0] * 48, [np.nan] * 48]))


# ---------------------------------------------------------------------- experiments, figures


def test_which_band_predicts_each_voxel(own, tmp_path):
    found = layers(own.workspace, Selection(model=own.model.name), output=tmp_path, run=RUN)
    assert set(found.table.columns) >= {"region", "band"}
    assert set(found.table["band"]) >= {"tokens:odd", "tokens:vec", "gabor"}


def test_images_are_selected_by_their_tokens(vector, raw):
    said = Listening()
    run = RunContext(device=torch.device("cpu"), progress=said)
    brain = load_model(vector.model, "cpu")
    with pytest.raises(InputError, match="tokens of your own"):
        select_images(
            vector.workspace,
            brain,
            raw.folder / "images",
            SelectionSettings(drive="voxel:1"),
            run=run,
        )
    named = load_model(vector.model, "cpu", {"vec": raw.folder / "vector.npy"})
    settings = SelectionSettings(drive="voxel:1")
    by_file = select_images(
        vector.workspace, named, raw.folder / "vector.npy", settings, run=run,
        output=vector.workspace.root / "a",
    )  # fmt: skip
    by_name = select_images(
        vector.workspace, named, raw.folder / "images", settings, run=run,
        output=vector.workspace.root / "b",
    )  # fmt: skip
    assert any("no contact sheet" in line for line in said.messages)
    assert (by_name.folder / "contact_sheet.png").exists()
    np.testing.assert_array_equal(
        by_file.selection.table["score"], by_name.selection.table["score"]
    )
    best = by_name.selection.table["name"].iloc[0]
    means = named.mean(raw.folder / "images", unit="z")[:, 1]
    assert raw.names[int(means.argmax())] == best


def test_conditions_are_contrasted_without_controls(vector, raw, tmp_path):
    for k, name in enumerate(raw.names[:20]):
        folder = tmp_path / ("first" if k % 2 else "second")
        folder.mkdir(exist_ok=True)
        shutil.copy(raw.folder / f"images/{name}.png", folder)
    np.save(tmp_path / "t.npy", np.load(raw.folder / "vector.npy"))
    plan = Plan(
        tuple(read_conditions([tmp_path / "first", tmp_path / "second"])),
        ContrastSettings(n_permutations=20),
    )
    brain = load_model(vector.model, "cpu", {"vec": tmp_path / "t.npy"})
    with pytest.raises(InputError, match="images of several folders: name the image of each row"):
        contrast_conditions(vector.workspace, brain, plan, run=RUN)
    pd.DataFrame({"image": raw.names}).to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    said = Listening()
    brain = load_model(vector.model, "cpu", {"vec": tmp_path / "t.npy"})
    run = RunContext(device=torch.device("cpu"), progress=said)
    found = contrast_conditions(vector.workspace, brain, plan, run=run)
    assert any("no controls" in line for line in said.messages)
    means = brain.mean(sorted((tmp_path / "first").iterdir())).mean(0)
    means -= brain.mean(sorted((tmp_path / "second").iterdir())).mean(0)
    np.testing.assert_allclose(found.voxels["difference"], means, atol=1e-4)


# ------------------------------------------------------------------------------ as typed


def test_as_typed(raw, tmp_path):
    def typed(*arguments):
        return CliRunner().invoke(cli.app, [*map(str, arguments), "-w", str(tmp_path), "-q"])

    table = ("prepare", "table", raw.folder / "trials.tsv", "--dataset", "own", "-s", "1")
    table += ("--responses", raw.folder / "responses.npy", "--test", "0.3")
    done = typed(
        *table, "--tokens", f"vec={raw.folder}/vector.npy", "--images", raw.folder / "images"
    )
    assert done.exit_code == 0, done.output
    assert [p.name for p in (tmp_path / "prepared/own/features").iterdir()] == ["tokens-vec"]
    done = typed("train")
    assert done.exit_code == 0, done.output
    new = raw.folder / "vector.npy"
    done = typed("synthesize", "--tokens", new, "-n", "2", "--no-maps", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    draws = np.load(next((tmp_path / "out").rglob("*draws*.npy")))
    assert draws.shape == (N_IMAGES, 2, N_VOXELS)
    done = typed("select", new, "--drive", "voxel:0", "--no-independent")
    assert done.exit_code == 0, done.output
    done = typed(*table, "--overwrite")  # neither pictures nor tokens
    assert done.exit_code == 2
    assert "Missing option '--images' (or pass --tokens)." in done.output


def test_sequences_are_drawn_in_python_alone(own, tmp_path):
    table = tmp_path / "events.tsv"
    table.write_text(f"image\n{own.raw.names[0]}\n")
    pictures, message = own.raw.folder / "images", r"tokens of your own.*draw_sequence"
    with pytest.raises(InputError, match=message):
        synthesize_sequence(own.workspace, own.model, table, pictures, run=RUN)
