"""A new person's model from an hour of their own, and from models of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUIET
from listening import Listening
from one_band import one_store, renamed
from sealing import change_sealed, reseal_tokens

from synbrain_cli import load_model
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.io.arrays import load_arrays
from synbrain_cli.io.bundle import find_bundles
from synbrain_cli.io.files import read_json, sha256
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats, voxelwise_correlation
from synbrain_cli.pipeline import adapt as module
from synbrain_cli.pipeline.adapt import AdaptSettings, adapt, choose_sources_and_subject
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext
from synbrain_cli.training import resumable_fit as training
from synbrain_cli.training import shared_core as shared
from synbrain_cli.training.examples import load_examples
from synbrain_cli.training.strategies import STRATEGIES

# Their seals have tests of their own: tests/io/test_seals.py.
pytestmark = pytest.mark.usefixtures("unsealed")

CLOSED = ("shared-core", "source-map")
PLACE = {"mask.nii.gz", "voxels.tsv", "surface_resampling.npz", "mni_resampling.npz"}
COMMON = {"config.json", "settings.json", "card.md", "arrays", "linear", "readout"} | PLACE
LINEAR = TrainSettings(model="linear")
RUN = RunContext(progress=QUIET)


@pytest.fixture(scope="module")
def store(prepared):
    return prepared.find_tokens("simulated", None, QUIET.info)


@pytest.fixture(scope="module")
def person(prepared):
    return prepared.find_subject("2", None, QUIET.info)


@pytest.fixture(scope="module")
def source(trained, linear_bundles, tmp_path_factory) -> Path:
    """Models of subject 1: sub-01, with networks, and sub-01_linear, beside it."""
    workspace = Workspace(tmp_path_factory.mktemp("sources"))
    workspace.prepared.symlink_to(trained.prepared)
    shutil.copytree(trained.weights / "sub-01", workspace.weights / "sub-01")
    shutil.copytree(linear_bundles["1"], workspace.weights / "sub-01_linear")
    return workspace.weights / "sub-01"


@pytest.fixture(scope="module")
def linear(source):
    return source.with_name("sub-01_linear")


@pytest.fixture(scope="module")
def workspace(prepared, source, tmp_path_factory) -> Workspace:
    """Where the models below are made."""
    return workspace_of(tmp_path_factory.mktemp("adapted"), prepared, source)


def workspace_of(root, prepared, *sources):
    workspace = Workspace(root)
    workspace.prepared.symlink_to(prepared.prepared)
    workspace.weights.mkdir()
    for path in sources:
        (workspace.weights / path.name).symlink_to(path)
    return workspace


@pytest.fixture(scope="module")
def models(workspace, source, person, store):
    """Strategy → what was made of the first hour."""
    before = digests(source)
    made = {s: adapt_from(workspace, source, person, store, strategy=s) for s in STRATEGIES}
    assert digests(source) == before  # the source stays as it was
    return made


@pytest.fixture(scope="module", params=STRATEGIES)
def model(request, models):
    return request.param, models[request.param]


@pytest.fixture(scope="module")
def tokens(person, store):
    return store.take(person.select("test").images[:20])


def adapt_from(
    workspace,
    sources,
    subject,
    store,
    *,
    seed=0,
    progress=QUIET,
    name=None,
    overwrite=False,
    **asked,
):
    """`adapt` on the CPU, from one source or several."""
    settings = AdaptSettings([sources] if isinstance(sources, Path) else sources, **asked)
    run = RunContext(seed, progress=progress)
    return adapt(workspace, subject, store, settings, run, name=name, overwrite=overwrite)


def digests(folder):
    return {p.relative_to(folder): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def arrays(folder):
    """Every array of a bundle, but of the sources within."""
    return {
        f"{path.stem}.{name}": array
        for path in sorted(folder.glob("*.safetensors"))
        for name, array in load_arrays(path).items()
    }


def assert_same_model(one, other):
    """Bit for bit."""
    expected, found = arrays(one), arrays(other)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    configs = [read_json(folder / "config.json") for folder in (one, other)]
    assert configs[0]["fingerprint"] == configs[1]["fingerprint"]


def changed(tmp_path, prepared, change):
    """Subject 2 with other trials or betas, in a workspace with all else as it was."""
    workspace = Workspace(tmp_path / "changed")
    dataset = workspace.prepared / "simulated"
    dataset.mkdir(parents=True)
    for name in ("sub-01", "features"):
        (dataset / name).symlink_to(prepared.prepared / "simulated" / name)
    folder = shutil.copytree(prepared.prepared / "simulated/sub-02", dataset / "sub-02")
    table, betas = pd.read_csv(folder / "trials.tsv", sep="\t"), np.load(folder / "betas.npy")
    change(table, betas)
    table.to_csv(folder / "trials.tsv", sep="\t", index=False)
    np.save(folder / "betas.npy", betas)
    return workspace, PreparedSubject(folder)


# ------------------------------------------------------------------------- what is made


def test_a_model_as_any_other(model, person, tokens):
    strategy, result = model
    assert result.folder.name == f"sub-02_hours-1_{strategy}"
    brain = load_model(result.folder, "cpu")
    assert brain.subject == "02"
    assert brain.simulated
    deep = strategy == "fine-tuning"
    assert brain.predictors.names == ("linear", "deep" if deep else "transfer")
    assert brain.config.has_networks == deep
    assert (brain.predictors.transfer is None) == deep
    assert brain.predictors.stack.shape == (2, person.n_voxels)
    mean, draws = brain.mean(tokens), brain.draw(tokens, 3)
    assert mean.shape == (len(tokens), person.n_voxels)
    assert draws.shape == (len(tokens), 3, person.n_voxels)
    assert np.isfinite(mean).all()
    assert np.isfinite(draws).all()
    assert (mean.std(0) > 1e-3).mean() > 0.3  # weights are 0 where nothing is predicted
    other = "deep" if deep else "transfer"
    stack = brain.predictors.stack
    linear, added = (brain.predict(name, tokens, "z") for name in ("linear", other))
    parts = stack[0] * linear + stack[1] * added
    np.testing.assert_allclose(brain.mean(tokens, "z"), parts, atol=1e-5)
    np.testing.assert_allclose(mean, parts * brain.response_sd + brain.response_mean, atol=1e-4)
    if deep:
        with pytest.raises(InputError, match="was not adapted from models of other subjects"):
            brain.predict("transfer", tokens)


def test_the_bundle_holds_what_is_needed_and_no_more(model):
    strategy, result = model
    own = {
        "shared-core": {"transfer"},
        "source-map": {"transfer", "sources"},
        "fine-tuning": {"networks"},
    }
    names = {path.name.removesuffix(".safetensors") for path in result.folder.iterdir()}
    described = {".files.json", ".bidsignore", "dataset_description.json"}
    # An hour of one session may or may not show an order in time
    assert names - {"sequence"} == COMMON | own[strategy] | described
    assert not list(result.folder.parent.glob(".*"))


def test_the_record_says_how_it_came_about(model, person):
    strategy, result = model
    record = read_json(result.folder / "config.json")["training"]
    assert record == json.loads(msgspec.json.encode(result.record))
    asked = read_json(result.folder / "settings.json")
    assert asked["tried"] == [strategy]
    assert (asked["sources"], asked["hours"]) == (["sub-01"], 1)
    adaptation = record["adaptation"]
    assert adaptation["strategy"] == strategy
    assert set(adaptation["strategies"]) == {strategy, "linear encoder"}
    chosen_by = adaptation["strategies"][strategy]
    if strategy == "fine-tuning":
        assert chosen_by == pytest.approx(record["validation"]["deep"], abs=1e-6)
    else:  # chosen by fits to training images; recorded are leave-one-out predictions
        assert chosen_by == pytest.approx(record["validation"]["transfer"], abs=0.2)
    assert adaptation["sources"] == ["sub-01"]
    assert adaptation["hours"] == 1
    assert record["sessions"] == [1]
    table = person.trials
    mine = table[(table["session"] == 1) & (table["split"] != "test")]
    assert adaptation["trials"] == mine["trial"].tolist()
    assert sum(record["n_trials"].values()) == len(mine)
    assert sum(record["n_images"].values()) == mine["image"].nunique()


def test_the_scale_is_that_of_the_hours_training_trials(model, person):
    _, result = model
    brain = load_model(result.folder, "cpu")
    within = person.first_hours(1)
    recorded = person.recorded(person.select("train", within)).astype(float)
    np.testing.assert_allclose(brain.response_mean, recorded.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(brain.response_sd, recorded.std(0), rtol=1e-4)


def test_prepared_betas_are_nearly_in_the_models_unit(models, person, store):
    """Trials of other sessions are judged z-scored within theirs: a scale an hour knows nearly."""
    brain = load_model(models["source-map"].folder, "cpu")
    known = load_examples(person, store, person.first_hours(1)).train
    found = brain.standardize(person.select("train", person.first_hours(1)).betas)
    np.testing.assert_allclose(found.std(0), known.betas.std(0), rtol=0.25)
    assert np.abs(found.mean(0) - known.betas.mean(0)).max() < 0.25


def test_a_model_stands_alone(model, tokens, tmp_path):
    """Nothing is read from where it was made: no source, no core, no data."""
    _, result = model
    moved = shutil.copytree(result.folder, tmp_path / "elsewhere")
    expected = load_model(result.folder, "cpu").mean(tokens)
    hidden = result.folder.parent.rename(result.folder.parent.with_name("hidden"))
    try:
        found = load_model(moved, "cpu")
        np.testing.assert_array_equal(found.mean(tokens), expected)
    finally:
        hidden.rename(result.folder.parent)


def test_sources_within_a_model_are_checked(models, linear, tmp_path):
    result = models["source-map"]
    broken = shutil.copytree(result.folder, tmp_path / "broken")
    shutil.rmtree(broken / "sources/sub-01")
    with pytest.raises(MissingError, match="sub-01"):
        load_model(broken, "cpu")
    shutil.copytree(linear, broken / "sources/sub-01")
    with pytest.raises(InputError, match=r"expected the models \['\w+'\], found.*adapt again"):
        load_model(broken, "cpu")


@pytest.mark.parametrize("strategy", CLOSED)
def test_draws_depend_on_nothing_but_their_image(models, strategy, tokens):
    """Bit for bit: neither on the other images, nor their order, nor how many at once."""
    brain = load_model(models[strategy].folder, "cpu")
    whole = brain.draw(tokens, 3, seed=4)
    order = np.random.default_rng(0).permutation(len(tokens))
    np.testing.assert_array_equal(brain.draw(tokens[order], 3, seed=4), whole[order])
    np.testing.assert_array_equal(brain.draw(tokens[7:9], 3, seed=4), whole[7:9])
    np.testing.assert_array_equal(brain.draw(tokens[[13]], 2, seed=4)[0], whole[13, :2])
    again = load_model(models[strategy].folder, "cpu")
    np.testing.assert_array_equal(again.draw(tokens, 3, seed=4), whole)


def test_an_adapted_model_is_evaluated_with_its_transfer(models, workspace, person, store):
    from synbrain_cli.pipeline import evaluate as module

    brain = load_model(models["source-map"].folder, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "synbrain_cli.evaluation.results_writer.save_figure", lambda figure, path: None
        )
        few = EvaluateSettings(n_draws=20, latent=False, n_boot=20)
        run = RunContext(progress=QUIET)
        result = module.evaluate(workspace, brain, person, store, few, run=run)
    scores = result.metrics.overall.voxelwise_correlation
    assert scores.get("deep") is None
    assert scores.transfer > 0.1 > abs(scores.shuffled)


# ------------------------------------------------------------------------ several sources


def test_several_sources_speak_side_by_side(own, source, linear, person, store, tokens):
    sources = [linear, source]
    result = adapt_from(own, sources, person, store, strategy="source-map")
    brain = load_model(result.folder, "cpu")
    assert brain.config.transfer.sources == ["sub-01_linear", "sub-01"]
    assert result.record.adaptation.sources == ["sub-01_linear", "sub-01"]
    evidence, prior = brain.predictors.transfer.evidence(tokens)
    expected = [load_model(path, "cpu").mean(tokens, "z") for path in sources]
    np.testing.assert_allclose(evidence, np.concatenate(expected, 1), atol=1e-5)  # in a batch
    assert prior is None


def test_fine_tuning_takes_the_first_source_with_networks(own, source, linear, person, store):
    progress = Listening()
    said = progress.messages
    options = {"strategy": "fine-tuning", "progress": progress}
    result = adapt_from(own, [linear, source], person, store, **options)
    assert "fine-tuning: the networks of sub-01" in said
    assert load_model(result.folder, "cpu").predictors.names == ("linear", "deep")
    # Of them all of BrainVAE was trained on, and the mapper's MLPs alone.
    before, after = (load_arrays(f / "networks.safetensors") for f in (source, result.folder))
    moved = {k for k in before if not np.array_equal(before[k], after[k])}
    assert {k.split(".")[0] for k in moved} == {"vae", "mapper"}
    assert all(".mlp." in k for k in moved if k.startswith("mapper."))


def test_sources_of_one_name_from_two_workspaces(own, source, linear, person, store, tmp_path):
    """They go into the bundle by name."""
    other = shutil.copytree(linear, tmp_path / "other/weights/sub-01")
    refused(own, [source, other], person, store, "different names", strategy="source-map")


# ----------------------------------------------------------------------------- the choice


def scored(scores, monkeypatch):
    """Validation scores as given: of the strategies tried, then of the linear encoder."""
    given = iter(scores)
    monkeypatch.setattr(
        "synbrain_cli.pipeline.adapt.share_predicted", lambda *arguments: next(given)
    )


def test_auto_keeps_the_least_bad(own, linear, person, store, monkeypatch):
    """The linear encoder is no strategy, however well it does."""
    scored((-0.1, -0.4, 0.0), monkeypatch)
    result = adapt_from(own, linear, person, store)
    assert result.record.adaptation.strategy == "shared-core"
    assert read_json(result.folder / "config.json")["transfer"]["kind"] == "shared-core"
    assert not (result.folder / "sources").exists()


def test_auto_by_the_scores_themselves(own, linear, person, store, models):
    """Half an hour, from a model without networks: that strategy is left out, and said so."""
    progress = Listening()
    said = progress.messages
    result = adapt_from(own, linear, person, store, hours=0.5, progress=progress)
    assert result.folder.name == "sub-02_hours-0.5"
    assert "fine-tuning is left out: sub-01_linear: without networks to fine-tune" in " ".join(said)
    scores = dict(result.record.adaptation.strategies)
    del scores["linear encoder"]
    assert set(scores) == set(CLOSED)
    assert result.record.adaptation.strategy == max(scores, key=scores.get)
    assert any("the first 0.5 hours" in line for line in said)
    assert any(f"source-map: validation score {scores['source-map']:.3f}" in x for x in said)
    table = person.trials[: round((person.trials["session"] == 1).sum() / 2)]
    assert result.record.adaptation.trials == table["trial"][table["split"] != "test"].tolist()
    assert len(result.record.adaptation.trials) < len(models["source-map"].record.adaptation.trials)


# -------------------------------------------------------- what counts, and what does not


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_beyond_the_hour_counts(models, strategy, prepared, source, store, tmp_path):
    """Nor do test trials within it: the same model, bit for bit."""

    def spoil(table, betas):
        outside = (table["session"] != 1).to_numpy()
        test = (table["split"] == "test").to_numpy()
        betas[outside] = np.nan
        betas[test & ~outside] = 1e6
        # What later trials show does not count, either; nor which of them are of which split.
        table.loc[outside, "image"] = np.roll(table["image"][outside], 17)
        table.loc[outside & ~test, "split"] = "val"

    workspace, person = changed(tmp_path, prepared, spoil)
    scale = dict(np.load(person.folder / "standardization.npz"))
    assert scale["sessions"].tolist() == [1, 2, 3]
    scale["mean"][1:] = 1e3
    scale["sd"][1:] = 1e3
    np.savez(person.folder / "standardization.npz", **scale)
    result = adapt_from(workspace, source, person, store, strategy=strategy)
    assert_same_model(models[strategy].folder, result.folder)
    assert result.record.adaptation.strategies == models[strategy].record.adaptation.strategies
    assert result.record.adaptation.trials == models[strategy].record.adaptation.trials


def test_trials_of_the_hour_count(models, prepared, source, store, tmp_path):
    """The test above would notice."""

    def spoil(table, betas):
        (row, *_) = np.flatnonzero((table["session"] == 1) & (table["split"] == "train"))
        betas[row] += 0.01

    workspace, person = changed(tmp_path, prepared, spoil)
    result = adapt_from(workspace, source, person, store, strategy="source-map")
    with pytest.raises(AssertionError):
        assert_same_model(models["source-map"].folder, result.folder)


@pytest.mark.parametrize("strategy", CLOSED)
def test_it_is_the_images_that_predict(strategy, prepared, linear, store, tmp_path):
    """Shown to have seen other images, a person is predicted worse: on validation images, of which
    there are a third here, and on those of the test."""

    def split(table, betas):
        own = np.unique(table["image"][table["split"] != "test"])
        for name, images in (("train", own), ("val", own[::3])):
            table.loc[table["image"].isin(images), "split"] = name

    def shuffle(table, betas):
        split(table, betas)
        for name in ("train", "val"):
            rows = table["split"] == name
            images = np.unique(table["image"][rows])
            other = dict(zip(images, np.roll(images, len(images) // 2), strict=True))
            table.loc[rows, "image"] = table["image"][rows].map(other)

    scores, correlations = [], []
    for k, change in enumerate((split, shuffle)):
        (tmp_path / str(k)).mkdir()
        workspace, person = changed(tmp_path / str(k), prepared, change)
        options = {"strategy": strategy, "hours": 3}
        result = adapt_from(workspace, linear, person, store, **options)
        scores.append(result.record.adaptation.strategies[strategy])
        test = person.select("test")
        averages, index, _ = average_repeats(test.betas, test.image_index)
        predicted = load_model(result.folder, "cpu").predict(
            "transfer", store.take(test.images[index]), "z"
        )
        correlations.append(np.nanmean(voxelwise_correlation(averages, predicted)))
    assert scores[0] > scores[1] + 0.02
    assert correlations[0] > 0.2
    assert abs(correlations[1]) < 0.1


# ------------------------------------------------------------------------------ the core


def test_the_core_is_trained_once(workspace, models, source, person, store, monkeypatch):
    cores = sorted((workspace.weights / "cores").iterdir())
    assert [path.name.partition("_")[0] for path in cores] == ["sub-01"]

    def never(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(shared, "fit_resumably", never)
    options = {"strategy": "shared-core", "hours": 2}
    result = adapt_from(workspace, source, person, store, **options)
    parts = [
        {k: v for k, v in arrays(f).items() if k.startswith("transfer.core.")}
        for f in (models["shared-core"].folder, result.folder)
    ]
    assert parts[0].keys() == parts[1].keys()
    assert all(np.array_equal(parts[0][k], parts[1][k]) for k in parts[0])
    with pytest.raises(AssertionError, match="trained again"):
        adapt_from(workspace, source, person, store, seed=1, name="other", **options)
    assert sorted((workspace.weights / "cores").glob("[!.]*")) == cores
    # Bundles are found, cores are not taken for them.
    assert "cores" not in [path.name for path in find_bundles(workspace.weights)]


def test_another_seed_is_another_core(own, models, source, person, store):
    for seed in (0, 1):
        options = {"strategy": "shared-core", "seed": seed, "name": f"seed-{seed}"}
        adapt_from(own, source, person, store, **options)
    assert len(list((own.weights / "cores").iterdir())) == 2
    assert_same_model(models["shared-core"].folder, own.weights / "seed-0")
    first, second = (arrays(own.weights / f"seed-{seed}") for seed in (0, 1))
    name = "transfer.core.0.local.0.0.weight"
    assert not np.array_equal(first[name], second[name])


# --------------------------------------------------------------------------- interruption


def stop_after(module, calls, monkeypatch):
    """Ctrl-C after so many epochs of all networks, once they are on the disk."""
    real, left = module.fit, [calls]

    def fit(*arguments, on_epoch, **options):
        def save(state):
            on_epoch(state)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        return real(*arguments, on_epoch=save, **options)

    monkeypatch.setattr(module, "fit", fit)


def test_resumed_is_as_never_interrupted(own, models, source, person, store, monkeypatch):
    """Here in the core's first epoch; in fine-tuning below, as typed."""
    options = {"strategy": "shared-core"}
    with monkeypatch.context() as patch:
        stop_after(training, 1, patch)
        with pytest.raises(KeyboardInterrupt):
            adapt_from(own, source, person, store, **options)
    torch.set_flush_denormal(False)  # tests/pipeline/test_shared.py tells of it
    target = own.weights / "sub-02_hours-1_shared-core"
    assert not target.exists()
    with pytest.raises(InputError, match=r"interrupted run with other settings \(hours 1, now 2\)"):
        adapt_from(own, source, person, store, hours=2, name=target.name, **options)
    progress = Listening()
    said = progress.messages
    result = adapt_from(own, source, person, store, progress=progress, **options)
    assert any("continuing after epoch" in line for line in said)
    assert_same_model(models["shared-core"].folder, result.folder)
    assert not list(own.weights.glob(".*"))


def test_stopped_before_the_bundle_is_written(own, models, source, person, store, monkeypatch):
    """All strategies done: once more gives the same."""
    options = {"strategy": "source-map"}
    with monkeypatch.context() as patch:

        def stop(*arguments, **options):
            raise KeyboardInterrupt

        patch.setattr(module, "fit_distribution", stop)
        with pytest.raises(KeyboardInterrupt):
            adapt_from(own, source, person, store, **options)
    result = adapt_from(own, source, person, store, **options)
    assert_same_model(models["source-map"].folder, result.folder)
    assert digests(result.folder / "sources") == digests(models["source-map"].folder / "sources")


def test_a_finished_model_is_not_replaced_unasked(workspace, models, source, person, store):
    options = {"strategy": "source-map"}
    finished = models["source-map"].folder
    progress = Listening()
    said = progress.messages
    written = (finished / "config.json").stat().st_mtime_ns
    result = adapt_from(workspace, source, person, store, progress=progress, **options)
    assert result == models["source-map"]
    assert said == [f"{finished} is already there, made with the same settings"]
    assert (finished / "config.json").stat().st_mtime_ns == written
    with pytest.raises(
        InputError, match=r"made with other settings \(hours 1, now 2\): pass --over"
    ):
        adapt_from(workspace, source, person, store, hours=2, name=finished.name, **options)
    before = arrays(models["source-map"].folder)
    adapt_from(workspace, source, person, store, overwrite=True, **options)
    after = arrays(models["source-map"].folder)
    assert all(np.array_equal(before[name], after[name]) for name in before)


# --------------------------------------------------------------------------------- errors


def refused(workspace, sources, person, store, match, **options):
    with pytest.raises(InputError, match=match):
        adapt_from(workspace, sources, person, store, **options)
    assert not workspace.weights.exists()


def test_what_cannot_be_is_refused_before_anything_is_written(own, source, linear, person, store):
    refused(own, source, person, store, "--strategy guess: expected auto or", strategy="guess")
    refused(own, source, person, store, "--hours 4: .* at most 3, .* sub-02", hours=4)
    refused(own, source, person, store, "--hours 0: ", hours=0)
    refused(
        own,
        linear,
        person,
        store,
        "--strategy fine-tuning: sub-01_linear: without networks",
        strategy="fine-tuning",
    )
    refused(own, source, person, renamed(store), "tokens of gabor, but sub-01 was trained on")


def test_a_model_of_the_very_person_is_no_source(own, source, linear, prepared, store):
    same = prepared.find_subject("1", None, QUIET.info)
    refused(own, source, same, store, "--from sub-01: was trained on data of sub-01")
    refused(own, [linear, source], same, store, "--from sub-01_linear: was trained on data of")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_adapted_from_the_very_person_is_no_source_either(
    own, prepared, store, models, strategy
):
    same = prepared.find_subject("1", None, QUIET.info)
    options = {"strategy": "source-map"}
    with pytest.raises(InputError, match="was trained on data of sub-01, the subject to adapt to"):
        adapt_from(own, models[strategy].folder, same, store, **options)


def test_no_shared_core_without_the_sources_data(own, linear, person, store, tmp_path):
    """The encoder's tokens and the new person alone are in this workspace."""
    alone = Workspace(tmp_path / "alone")
    dataset = alone.prepared / "simulated"
    dataset.mkdir(parents=True)
    for name in ("sub-02", "features"):
        (dataset / name).symlink_to(person.folder.parent / name)
    why = r"the subjects of sub-01_linear are not in this workspace"
    refused(alone, linear, person, store, f"--strategy shared-core: .*{why}", strategy=CLOSED[0])
    progress = Listening()
    said = progress.messages
    result = adapt_from(alone, linear, person, store, progress=progress)
    assert result.record.adaptation.strategy == "source-map"
    assert any(line.startswith("shared-core is left out: ") for line in said)


def test_no_shared_core_of_tokens_off_a_grid(prepared, tmp_path):
    """12 tokens per image, of the same name: the source map needs no grid."""
    workspace = Workspace(tmp_path / "few")
    dataset = workspace.prepared / "simulated"
    dataset.mkdir(parents=True)
    for name in ("sub-01", "sub-02"):
        (dataset / name).symlink_to(prepared.prepared / "simulated" / name)
    folder = shutil.copytree(prepared.prepared / "simulated/features/gabor", dataset / "features/g")
    np.save(folder / "tokens.npy", np.load(folder / "tokens.npy")[:, :12])
    reseal_tokens(folder, n_tokens=12)
    store = one_store(folder)
    first, second = (workspace.find_subject(s, None, QUIET.info) for s in "12")
    source = train(workspace, first, store, LINEAR, RUN).folder
    with pytest.raises(InputError, match=r"--strategy shared-core: .*12 tokens per image"):
        adapt_from(workspace, source, second, store, strategy="shared-core")
    progress = Listening()
    said = progress.messages
    result = adapt_from(workspace, source, second, store, progress=progress)
    assert result.record.adaptation.strategy == "source-map"
    assert any("shared-core is left out: " in line and "12 tokens" in line for line in said)


def test_an_hour_without_validation_images(prepared, linear, store, tmp_path):
    def all_train(table, betas):
        first = (table["session"] == 1) & (table["split"] == "val")
        table.loc[first, "split"] = "train"

    workspace, person = changed(tmp_path, prepared, all_train)
    with pytest.raises(InputError, match=r"no trial of the val split among the 125 trials.*more h"):
        adapt_from(workspace, linear, person, store)


def test_an_hour_that_is_refused_leaves_nothing_behind(prepared, linear, store, tmp_path):
    def all_train(table, betas):
        table.loc[(table["session"] == 1) & (table["split"] == "val"), "split"] = "train"

    workspace, person = changed(tmp_path, prepared, all_train)
    with pytest.raises(InputError, match="no trial of the val split"):
        adapt_from(workspace, linear, person, store)
    assert not workspace.weights.exists()


def test_an_hour_of_too_few_images(prepared, linear, store, tmp_path):
    def few(table, betas):
        first = np.flatnonzero((table["session"] == 1) & (table["split"] == "train"))
        images = np.unique(table["image"][first])[3:]
        table.loc[table["image"].isin(images), "split"] = "test"

    workspace, person = changed(tmp_path, prepared, few)
    assert len(load_examples(person, store, person.first_hours(1)).train.averages) == 3
    try:
        adapt_from(workspace, linear, person, store, strategy="source-map")
    except InputError:
        return


# ------------------------------------------------------------------- what is not said


def test_sources_are_one_model_of_every_other_person(own, source, linear, person):
    """With networks where there is one; adapted models are nobody's source unasked."""
    own.weights.mkdir()
    shutil.copytree(linear, own.weights / "a-linear")
    (own.weights / "sub-01").symlink_to(source)
    said = []
    bundles, new, tokens = choose_sources_and_subject(own, None, None, None, said.append)
    assert [path.name for path in bundles] == ["sub-01"]
    assert new.subject == "02"
    assert tokens.spec == "gabor"
    assert "from: sub-01 (--from)" in said
    bundles, _, _ = choose_sources_and_subject(own, " a-linear, sub-01", "2", None, said.append)
    assert [path.name for path in bundles] == ["a-linear", "sub-01"]
    for text, error in (("sub-01, sub-01", "names of different models"), (" ,", "found none")):
        with pytest.raises(SynbrainError, match=error):
            choose_sources_and_subject(own, text, "2", None, said.append)


@pytest.mark.parametrize("what", ["an adapted model", "the person's own model"])
def test_a_model_of_another_encoder_that_is_no_source_decides_nothing(own, source, models, what):
    config = read_json(source / "config.json")
    config["bands"][0]["identity"]["name"] = "another"
    if what == "an adapted model":
        adapted = read_json(models["source-map"].folder / "config.json")
        config["training"]["adaptation"] = adapted["training"]["adaptation"]
    else:
        config["subject"] = "02"
    (own.weights / "a").mkdir(parents=True)
    (own.weights / "a/config.json").write_text(json.dumps(config))
    change_sealed(own.weights / "a/config.json")
    (own.weights / "sub-01").symlink_to(source)
    bundles, _, _ = choose_sources_and_subject(own, None, "2", None, QUIET.info)
    assert [path.name for path in bundles] == ["sub-01"]


def test_nobody_to_start_from_or_to_adapt_to(own, source, models, prepared):
    with pytest.raises(MissingError, match="no trained model to start from"):
        choose_sources_and_subject(own, None, None, None, QUIET.info)
    own.weights.mkdir()
    (own.weights / "sub-02_hours-1").symlink_to(models["source-map"].folder)
    with pytest.raises(MissingError, match="no trained model to start from"):
        choose_sources_and_subject(own, None, None, None, QUIET.info)
    (own.weights / "sub-01").symlink_to(source)
    # That of one hour does not make sub-02 a modelled person.
    assert choose_sources_and_subject(own, None, None, None, QUIET.info)[1].subject == "02"
    with pytest.raises(MissingError, match="no trained model of another subject than sub-01"):
        choose_sources_and_subject(own, None, "1", None, QUIET.info)


# ----------------------------------------------------------------------------- as typed


@pytest.fixture
def place(tmp_path, prepared, source):
    (tmp_path / "typed").mkdir()
    return workspace_of(tmp_path / "typed", prepared, source)


def test_the_command_with_a_strategy(synbrain, place, models):
    code, output, error = synbrain(
        *("adapt", "--strategy", "source-map", "--from", "sub-01"),
        *("--device", "cpu", "--workspace", place.root),
    )
    assert code == 0, error
    folder = place.weights.resolve() / "sub-02_hours-1_source-map"
    scores = models["source-map"].record.validation
    listing = ", ".join(
        f"{label} {scores[name]:.3f}"
        for name, label in (
            ("model", "model"),
            ("transfer", "transfer alone"),
            ("linear", "linear encoder alone"),
        )
    )
    shown, validation, *of_order, report = output.splitlines()
    assert shown == str(folder)
    assert validation == (
        f"validation images, share of variance predicted: {listing}, mean pattern 0"
    )
    assert all("kept" in line or "order" in line for line in of_order), of_order
    assert report == f"{place.outputs / folder.name}_report.html"
    assert "subject: simulated/sub-02" in error
    assert "adapting sub-01 to sub-02: the first 1 hour, 70 trials of 49 images" in error
    assert f"{folder.name}: source-map: validation score" in error
    assert_same_model(models["source-map"].folder, folder)


def test_the_command_alone_tries_everything_and_keeps_the_best(
    synbrain, place, models, monkeypatch
):
    """Nor do the strategies disturb one another."""
    scores = dict(zip((*STRATEGIES, "linear encoder"), (0.1, 0.4, 0.3, 0.9), strict=True))
    scored(scores.values(), monkeypatch)
    code, output, error = synbrain("adapt", "--device", "cpu", "-w", place.root)
    assert code == 0, error
    folder = place.weights.resolve() / "sub-02_hours-1"
    assert output.splitlines()[0] == str(folder)
    assert "from: sub-01 (--from)" in error
    for name, score in scores.items():
        assert f"{folder.name}: {name}: validation score {score:.3f}" in error
    record = read_json(folder / "config.json")["training"]
    assert read_json(folder / "settings.json")["tried"] == list(STRATEGIES)
    assert record["adaptation"]["strategies"] == scores
    assert record["adaptation"]["strategy"] == "source-map"
    alone = models["source-map"].folder
    assert_same_model(alone, folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}
    code, output, error = synbrain("adapt", "--device", "cpu", "-w", place.root)
    assert code == 0
    assert output.splitlines()[0] == str(folder)
    assert f"{folder} is already there, made with the same settings" in error


def test_half_an_hour_as_typed(synbrain, place):
    code, _, error = synbrain(
        *("adapt", "--hours", "0.5", "--strategy", "source-map", "--name", "half", "-q"),
        *("--device", "cpu", "-w", place.root),
    )
    assert code == 0, error
    assert not error
    record = read_json(place.weights / "half/config.json")["training"]
    assert record["adaptation"]["hours"] == 0.5
    assert len(record["adaptation"]["trials"]) == 32


def test_interrupted_it_says_how_to_go_on(synbrain, place, monkeypatch, models):
    command = ["adapt", "--strategy", "fine-tuning", "--device", "cpu", "-w", place.root]
    with monkeypatch.context() as patch:
        stop_after(training, 3, patch)  # BrainVAE is done, the mapper under way
        code, output, error = synbrain(*command)
    assert code == 130
    assert not output
    assert "the same command goes on where it stopped" in error
    code, _, error = synbrain(*command)
    assert code == 0, error
    assert "BrainVAE: continuing after epoch 2" in error
    assert "mapper: continuing after epoch 1" in error
    target = place.weights / "sub-02_hours-1_fine-tuning"
    assert_same_model(models["fine-tuning"].folder, target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--hours", "0"],
            "--hours 0: expected more than 0 and at most 3, the number of sessions of sub-02",
        ),
        (["--hours", "-1"], "--hours -1: expected more than 0 and at most 3"),
        (["--hours", "3.5"], "expected more than 0 and at most 3"),
        (["--from", "sub-09"], "no model sub-09"),
        (["--from", "sub-01,sub-01"], "--from sub-01,sub-01: expected names of different models"),
        (
            ["--from", "sub-01", "--subject", "1"],
            "--from sub-01: was trained on data of sub-01, the subject to adapt to",
        ),
        (["--subject", "1"], "no trained model of another subject than sub-01"),
        (["--subject", "7"], "no prepared sub-07"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_one_line_says_what_was_expected(synbrain, place, options, message):
    before = sorted(place.weights.iterdir())
    code, output, error = synbrain("adapt", *options, "-w", place.root)
    assert code == 1
    assert not output
    assert error.splitlines()[-1].startswith("synbrain: ")
    assert message in error.splitlines()[-1]
    assert sorted(place.weights.iterdir()) == before
