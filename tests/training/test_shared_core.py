"""The core that serves every new person: trained once, on training images alone, and kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUIET
from listening import Listening
from one_band import one_store, plain_scaler, renamed
from sealing import change_sealed

from synbrain_cli.config import Band, CoreConfig, StageConfig
from synbrain_cli.errors import BusyError, InputError
from synbrain_cli.io.arrays import load_arrays
from synbrain_cli.io.files import read_json, sha256
from synbrain_cli.io.locks import locked
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.surface import HEMISPHERES, fsaverage
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.model.core import NEAR, SharedCore, Sheet, read
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens
from synbrain_cli.training import resumable_fit as training
from synbrain_cli.training import shared_core as shared
from synbrain_cli.training.examples import load_examples
from synbrain_cli.training.shared_core import (
    COMPRESSED,
    N_FOLDS,
    TrainedCore,
    candidate_bands,
    describe_bands_left_out,
    require_grids,
    train_core,
)
from synbrain_cli.training.voxel_order import sphere_positions

# Their seals have tests of their own: tests/io/test_seals.py.
pytestmark = pytest.mark.usefixtures("unsealed")

RUN = RunContext(progress=QUIET)


@pytest.fixture(scope="module")
def store(prepared):
    return prepared.find_tokens("simulated", None, QUIET.info)


@pytest.fixture(scope="module")
def people(prepared, store):
    return [(prepared.find_subject(s, None, QUIET.info), store) for s in "12"]


@pytest.fixture(scope="module")
def workspace(prepared, tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("cores"))
    workspace.prepared.symlink_to(prepared.prepared)
    return workspace


@pytest.fixture(scope="module")
def core(workspace, people):
    """Of both subjects."""
    return train_core(workspace, people, RUN)


@pytest.fixture(scope="module")
def kept(workspace, core):
    """Its folder."""
    (folder,) = (workspace.weights / "cores").glob("sub-01+sub-02_*")
    return folder


def copied(subject, folder):
    """A prepared subject of the test's own, to be changed."""
    return PreparedSubject(shutil.copytree(subject.folder, folder / subject.folder.name))


# ------------------------------------------------------------------------------ training


def test_the_record_says_what_was_trained_on_what(kept, people, store):
    config, settings = (read_json(kept / f"{name}.json") for name in ("config", "settings"))
    assert settings["subjects"] == ["simulated/sub-01", "simulated/sub-02"]
    descriptions = [person.folder / "dataset_description.json" for person, _ in people]
    assert settings["data"] == [sha256(path) for path in descriptions]
    assert settings["bands"] == msgspec.to_builtins(list(store.bands))
    (candidate,) = settings["cores"]
    assert (candidate["bands"], candidate["shapes"]) == ([0], [[256, 48]])
    assert settings["exponents"] == [1.0, COMPRESSED]
    assert config["core"]["exponent"] in settings["exponents"]
    assert config["core"] == candidate | {"exponent": config["core"]["exponent"]}
    assert settings["stage"]["epochs"] == 2
    assert list(config["training"]) == [f"fold {k}" for k in range(1, N_FOLDS + 1)]
    for record in config["training"].values():
        history = record["history"]
        assert [epoch["epoch"] for epoch in history] == [1, 2]
        assert record["best_score"] == max(e["validation_score"] for e in history)
    assert "torch" in config["versions"]
    names = {"config.json", "settings.json", "core.safetensors"}
    names |= {"held_out_0.npy", "held_out_1.npy"}
    assert {path.name for path in kept.iterdir()} == names | {".files.json"}
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]  # no lock, nothing partial


def test_it_holds_everybodys_voxels_and_the_field(core, people):
    first, second = (person.n_voxels for person, _ in people)
    nodes = len(core.sheet.nodes)
    assert len(core.cores) == len(core.sources) == len(core.shared) == N_FOLDS
    for sources, shared_parts in zip(core.sources, core.shared, strict=True):
        field, local, whole, offset = sources
        assert field.shape == (first + second, 3)
        assert local.shape == (24, first + second)
        assert whole.shape == (128, first + second)
        assert offset.shape == (first + second,)
        assert [part.shape for part in shared_parts] == [(nodes, 3), (24, nodes), (128, nodes)]
        assert all(torch.isfinite(part).all() for part in (*sources, *shared_parts))
    assert core.first.tolist() == [0, first, first + second]


def test_the_sheet_is_fsaverages_near_the_voxels(core, people):
    sphere = fsaverage("sphere")
    for side, hemisphere in enumerate(HEMISPHERES):
        mine = core.sheet.nodes[core.sheet.side == side]
        vertices = sphere[hemisphere].coordinates[: shared.N_NODES].astype(float)
        assert {tuple(row) for row in mine} <= {tuple(row) for row in vertices}
        positions = [sphere_positions(person) for person, _ in people]
        points = np.concatenate([p[(s == side) & np.isfinite(p[:, 0])] for p, s in positions])
        gaps = np.linalg.norm(mine[:, None] - points[None], axis=2)
        assert gaps.min(1).max() < NEAR
        assert np.median(gaps.min(0)) < 7  # every voxel has a node beside it
    assert 50 < len(core.sheet.nodes) < 1000


def test_voxels_left_in_the_head_lie_on_the_left(people):
    subject = people[0][0]
    _, side = sphere_positions(subject)
    affine = subject.voxel_space.geometry.mask.affine
    x = (subject.voxels[["i", "j", "k"]].to_numpy() @ affine[:3, :3].T + affine[:3, 3])[:, 0]
    x -= np.median(x)
    off_the_middle = np.abs(x) > 10
    assert ((x > 0) == (side == 1))[off_the_middle].mean() > 0.95


def test_trained_once_and_taken_up_again(workspace, people, core, kept, monkeypatch):
    before = (kept / "core.safetensors").stat().st_mtime_ns

    def never(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(shared, "fit_resumably", never)
    progress = Listening()
    said = progress.messages
    again = train_core(workspace, people, replace(RUN, progress=progress))
    assert said == []
    assert (kept / "core.safetensors").stat().st_mtime_ns == before
    store = people[0][1]
    tokens = store.take(store.images[:5])
    found = (one.evidence(people[1][0])(tokens) for one in (core, again))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_people_anywhere_give_the_same_core(own, people, kept):
    """Bit for bit, and under the same name."""
    train_core(own, people, RUN)
    (folder,) = (own.weights / "cores").iterdir()
    assert folder.name == kept.name
    expected, found = (load_arrays(f / "core.safetensors") for f in (kept, folder))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


class Wanted(Exception):
    """A core that would have been trained, and its name."""


@pytest.fixture
def name_of(own, monkeypatch):
    """The name of the core of some people, which is not trained."""

    def work_folder(folder, *rest, **options):
        raise Wanted(folder.name)

    monkeypatch.setattr(shared, "work_folder", work_folder)

    def name(people, **options):
        with pytest.raises(Wanted) as wanted:
            train_core(own, people, replace(RUN, **options))
        return str(wanted.value)

    return name


def test_another_seed_stage_encoder_or_company_is_another_core(name_of, people, store, monkeypatch):
    names = [
        name_of(people),
        name_of(people, seed=1),
        name_of(people[:1]),
        name_of(people[1:]),
    ]
    assert [n.partition("_")[0] for n in names] == [
        "sub-01+sub-02",
        "sub-01+sub-02",
        "sub-01",
        "sub-02",
    ]
    names.append(name_of([(person, renamed(store)) for person, _ in people]))
    with monkeypatch.context() as patch:
        patch.setattr(shared, "CORE_STAGE", StageConfig(3, 32, 4e-3, 0.0))
        names.append(name_of(people))
    assert len(set(names)) == len(names)
    assert name_of(people) == names[0]


def test_other_data_are_another_core(name_of, people, tmp_path):
    subject, store = people[0]
    other = copied(subject, tmp_path / "changed/simulated")
    same = name_of([(other, store)])
    assert same == name_of([(subject, store)])  # wherever they are
    path = other.folder / "dataset_description.json"
    change_sealed(path, BetasBLAKE2b=read_json(path)["BetasBLAKE2b"] | {"1": "0" * 32})
    assert name_of([(other, store)]) != same


def test_test_trials_are_not_opened(own, people, core, kept, tmp_path):
    """Neither their responses, nor which images they show."""
    changed = []
    for person, store in people:
        other = copied(person, tmp_path / "changed/simulated")
        test = (other.trials["split"] == "test").to_numpy()
        betas = np.load(other.folder / "betas.npy")
        betas[test] = np.nan
        np.save(other.folder / "betas.npy", betas)
        table = pd.read_csv(other.folder / "trials.tsv", sep="\t", dtype=str)
        table.loc[test, "image"] = "unknown"
        table.to_csv(other.folder / "trials.tsv", sep="\t", index=False)
        changed.append((PreparedSubject(other.folder), store))
    train_core(own, changed, RUN)
    expected = load_arrays(kept / "core.safetensors")
    found = load_arrays(own.weights / "cores" / kept.name / "core.safetensors")
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def interrupted_after(epoch, monkeypatch):
    """Training stops as by Ctrl-C once that epoch is on the disk."""
    real = training.fit

    def fit(*arguments, on_epoch, **options):
        def save(state):
            on_epoch(state)
            if state["epoch"] == epoch:
                raise KeyboardInterrupt

        return real(*arguments, on_epoch=save, **options)

    monkeypatch.setattr(training, "fit", fit)


@pytest.fixture
def _denormals():
    """What an interrupted training leaves behind (below) is not for other tests."""
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("_denormals")
@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_training_goes_on(own, people, kept, monkeypatch, epoch):
    with monkeypatch.context() as patch:
        interrupted_after(epoch, patch)
        with pytest.raises(KeyboardInterrupt):
            train_core(own, people, RUN)
    folder = own.weights / "cores" / kept.name
    assert not folder.exists()
    left = {f".{kept.name}.partial", f".{kept.name}.recovery"}
    assert {p.name for p in folder.parent.iterdir()} == left
    progress = Listening()
    said = progress.messages
    train_core(own, people, replace(RUN, progress=progress))
    assert any(f"continuing after epoch {epoch}" in line for line in said)
    expected, found = (load_arrays(f / "core.safetensors") for f in (kept, folder))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    records = [read_json(f / "config.json")["training"] for f in (kept, folder)]
    assert records[0] == records[1]


@pytest.mark.usefixtures("_denormals")
def test_an_interrupted_training_leaves_the_arithmetic_as_it_was(own, people, monkeypatch):
    small = torch.tensor(1e-40)
    assert (small * 1) > 0
    interrupted_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_core(own, people[:1], RUN)
    assert (small * 1) > 0


def test_a_core_under_way_is_left_to_its_process(workspace, people, kept):
    with locked(kept, "a shared core"), pytest.raises(BusyError, match="another synbrain process"):
        train_core(workspace, people, RUN)


def test_people_whose_voxels_lie_nowhere_train_a_core_all_the_same(own, people, tmp_path):
    """Without transforms to fsaverage: each voxel keeps what was found for itself."""
    subject, store = people[0]
    other = copied(subject, tmp_path / "changed/simulated")
    (other.folder / "surface_resampling.npz").unlink()
    core = train_core(own, [(other, store)], RUN)
    assert core.sheet.nodes.shape == (1, 3)
    sources, prior = core.evidence(other)(store.take(store.images[:6]))
    assert sources.std(0).min() > 0
    assert (prior == 0).all()


# -------------------------------------------------------------------------------- the grid


def stores_of(*n_tokens):
    """Bands with so many tokens."""
    bands = [
        SimpleNamespace(
            token_shape=(n, 3), spec=f"band{k}", identity={"weights": None if n != 25 else "abc"}
        )
        for k, n in enumerate(n_tokens)
    ]
    return SimpleNamespace(bands=bands, folders="features")


def test_grids_of_four_tokens_a_side_or_more_will_do():
    require_grids(stores_of(16, 25, 256))


@pytest.mark.parametrize("n_tokens", [1, 9, 15, 50, 257])
def test_tokens_that_are_no_grid(n_tokens):
    """Are refused where there are no others, and else not seen by the network."""
    with pytest.raises(InputError, match=rf"{n_tokens} tokens per image.*square grid of 4 × 4"):
        require_grids(stores_of(n_tokens))
    beside = stores_of(16, n_tokens, 25)
    require_grids(beside)
    assert candidate_bands(beside) == [(0,), (0, 2)]
    assert rf"band1 ({n_tokens} per image): tokens on no square grid" in describe_bands_left_out(
        beside
    )
    assert describe_bands_left_out(stores_of(16, 25)) == ""


def test_no_core_of_tokens_that_are_no_grid(own, people, tmp_path):
    folder = shutil.copytree(people[0][1].stores[0].folder, tmp_path / "few")
    np.save(folder / "tokens.npy", np.load(folder / "tokens.npy")[:, :12])
    identity = read_json(folder / "encoder.json")["identity"] | {"n_tokens": 12}
    change_sealed(folder / "encoder.json", identity=identity)
    with pytest.raises(InputError, match="12 tokens per image"):
        train_core(own, [(people[0][0], one_store(folder))], RUN)
    assert not own.weights.exists()


# -------------------------------------------------------------------------- a new person


def test_a_new_person_at_a_sources_places_reads_the_field_alone(monkeypatch, rng):
    """Where a source deviates in nothing, the two are the same."""
    config = CoreConfig(shapes=((16, 5),), hidden=6, n_local=3, bottleneck=4, n_global=7)
    points = rng.normal(0, 1, (500, 3))
    points *= 100 / np.linalg.norm(points, axis=1, keepdims=True)
    side = np.arange(500) % 2
    sheet = Sheet(points[::4], side[::4])
    places = points[1:200:3], side[1:200:3]
    network = SharedCore(config, [sheet.basis(*places)], torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.subjects[0].local[:, 40:] = 1  # some have something of their own
        sources = tuple(part.clone() for part in network.voxels(0))
        field = tuple(getattr(network.shared, n).clone() for n in ("field", "local", "whole"))
    core = TrainedCore(
        *(config, plain_scaler(16, 5), (network.core,), (sources,), (field,), sheet),
        *(["a/sub-01"], np.array([0, 67]), (np.zeros((1, 67), np.float32),), np.zeros(67)),
    )
    monkeypatch.setattr(shared, "sphere_positions", lambda subject: places)
    tokens = Tokens.of(rng.normal(0, 1, (8, 16, 5)).astype(np.float32))
    known, prior = core.evidence(None)(tokens)
    assert known.shape == prior.shape == (8, 67)
    np.testing.assert_allclose(prior[:, :40], known[:, :40], atol=1e-6)
    assert np.abs(prior[:, 40:] - known[:, 40:]).max() > 0.01
    # In the other hemisphere, the other half of the field is read.
    monkeypatch.setattr(shared, "sphere_positions", lambda subject: (places[0], 1 - places[1]))
    _, other = core.evidence(None)(tokens)
    assert np.abs(prior - other).min(0).max() > 1e-4


def test_evidence_of_a_trained_core(core, people):
    (first, store), (second, _) = people
    sources, prior = core.evidence(second)(store.take(store.images[:6]))
    assert sources.shape == (6, first.n_voxels + second.n_voxels)
    assert prior.shape == (6, second.n_voxels)
    # Two epochs leave a person near the field: the prior is much like their own voxels.
    own, field = sources[:, first.n_voxels :], prior
    own, field = own - own.mean(0), field - field.mean(0)
    assert (own * field).sum() / np.sqrt((own**2).sum() * (field**2).sum()) > 0.5


# ------------------------------------------------------------------ a subject's own network


def test_a_network_of_a_subject_is_its_part_of_the_core(core, people):
    (first, store), (second, _) = people
    tokens = store.take(store.images[:6])
    sources, _ = core.evidence(second)(tokens)
    networks = [core.of_subject(person.label) for person in (first, second)]
    both = np.concatenate([one.ensemble.predict(tokens) for one in networks], 1)
    np.testing.assert_allclose(both, sources, atol=1e-5)
    for one, person in zip(networks, (first, second), strict=True):
        assert one.config.subjects == ["simulated/sub-01", "simulated/sub-02"]
        examples = load_examples(person, store)
        assert one.held_out.shape == examples.both.averages.shape
        assert one.excess.shape == (person.n_voxels,)
        assert (one.excess > 0).all()
        np.testing.assert_array_equal(
            examples.images, np.r_[person.select("train").images, person.select("val").images]
        )


def test_images_are_dealt_by_name_and_tested_ones_to_nobody():
    images = np.array([f"i{k:02d}" for k in range(40)])
    others = np.concatenate([images[::2], ["x", "y"]])
    one, other = shared._deal([images, others], {"i04", "i05", "z"}, 0, {})
    assert set(one.tolist()) == {-1, *range(N_FOLDS)}
    assert images[one == -1].tolist() == ["i04", "i05"]
    np.testing.assert_array_equal(other[:20], one[::2])  # of one fold for whoever saw it
    sizes = np.bincount(one[one >= 0])
    assert sizes.max() - sizes.min() <= 3
    again = shared._deal([images, others], {"i04", "i05", "z"}, 1, {})[0]
    assert not np.array_equal(again, one)


def test_held_out_predictions_are_by_the_network_that_did_not_see_the_image(core, people, store):
    """Of an image that is nobody's test image, by one network; else by the average of all."""
    examples = load_examples(people[0][0], store)
    everyone = [load_examples(person, store).images for person, _ in people]
    tested = {
        name
        for person, _ in people
        for name in person.trials["image"][person.trials["split"] == "test"]
    }
    folds, _ = shared._deal(everyone, tested, 0, {})
    network = core.of_subject("simulated/sub-01")
    for fold in range(N_FOLDS):
        rows = np.flatnonzero(folds == fold)[:5]
        tokens = examples.both.tokens.part(rows)
        with torch.inference_mode():
            seen = [torch.from_numpy(band) for band in tokens[:].bands]
            voxels = network.ensemble.voxels[fold]
            expected = read(core.cores[fold](seen), voxels, core.config.exponent)
        np.testing.assert_allclose(network.held_out[rows], expected, atol=1e-4)


def test_their_excess_is_that_of_images_which_no_network_saw(core, people, store):
    first = load_examples(people[0][0], store)
    examples = [first, load_examples(people[1][0], store, scaler=first.scaler)]
    tested = {
        name
        for person, _ in people
        for name in person.trials["image"][person.trials["split"] == "test"]
    }
    folds = shared._deal([one.images for one in examples], tested, 0, {})
    for (person, _), own, fold in zip(people, examples, folds, strict=True):
        network = core.of_subject(person.label)
        with torch.inference_mode():
            tokens = [torch.from_numpy(band) for band in own.both.tokens[:].bands]
            each = np.stack(
                [
                    read(c(tokens), v, core.config.exponent)
                    for c, v in zip(core.cores, network.ensemble.voxels, strict=True)
                ]
            )
        (dealt,) = np.nonzero(fold >= 0)
        single, average = each[fold[dealt], dealt], own.both.averages[dealt]
        seen = np.stack([np.delete(each[:, i], fold[i], 0) for i in dealt], 1)
        ratio = ((average - single) ** 2).mean(0) / ((average - seen) ** 2).mean((0, 1))
        ambiguity = seen.var(0, ddof=1).mean(0) * np.maximum(ratio, 1)
        expected = len(dealt) / len(fold) * (1 - 1 / N_FOLDS) * ambiguity
        np.testing.assert_allclose(network.excess, expected, rtol=1e-3)


def test_what_was_kept_by_other_rules_is_not_taken_up(name_of, people, monkeypatch):
    before = name_of(people)
    monkeypatch.setattr(shared, "VERSION", shared.VERSION + 1)
    assert name_of(people) != before


def bands_of(*weights):
    identity = {"n_tokens": 16, "n_dims": 3, "image_size": 8}
    bands = [Band(f"b{k}", identity | {"weights": w}) for k, w in enumerate(weights)]
    return SimpleNamespace(bands=bands)


@pytest.mark.parametrize(
    ("weights", "candidates"),
    [
        ((None,), [(0,)]),
        ((None, None), [(0, 1)]),
        (("abc",), [(0,)]),
        (("abc", "abd"), [(0, 1)]),
        ((None, "abc", None), [(0, 2), (0, 1, 2)]),
    ],
)
def test_bands_with_weights_are_tried_beside_those_without(weights, candidates):
    assert candidate_bands(bands_of(*weights)) == candidates


@pytest.mark.parametrize(
    ("seen", "candidates"),
    [
        ([("net@3", 224), ("net@4", 224), ("net:112@3", 112)], [(0, 1)]),
        ([("net:112@3", 112), ("net:96@3", 96)], [(0,)]),
        ([("net:112@3", 112), ("net:96@3", 96), ("other:96@2", 96)], [(0, 2)]),
        ([("net:112@3", 112)], [(0,)]),
        ([("gabor", 128), ("net:448@5", 448), ("net@5", 224)], [(0,), (0, 1)]),
        ([("tokens:a", None), ("tokens:b", None)], [(0, 1)]),
    ],
)
def test_an_encoder_is_seen_at_its_widest_images(seen, candidates):
    bands = []
    for spec, width in seen:
        identity = {"n_tokens": 16, "n_dims": 3} | ({"image_size": width} if width else {})
        weights = "abc" if "net" in spec or "other" in spec else None
        bands.append(Band(spec, identity | {"weights": weights}))
    assert candidate_bands(SimpleNamespace(bands=bands)) == candidates


def test_a_coarser_scale_is_seen_where_the_finest_is_on_no_grid():
    shapes = {"net@5": (9, 224), "net:112@3": (49, 112), "pixels": (64, 64)}
    bands = [
        Band(spec, {"n_tokens": n, "n_dims": 3, "image_size": width, "weights": "abc"})
        for spec, (n, width) in shapes.items()
    ]
    assert candidate_bands(SimpleNamespace(bands=bands)) == [(1, 2)]


@pytest.mark.parametrize(
    ("scores", "chosen", "trained"),
    [
        ({(0, 1.0): 0.2, (1, 1.0): 0.1, (0, 0.5): 0.3}, (0, 0.5), 3),
        ({(0, 1.0): 0.1, (1, 1.0): 0.2, (1, 0.5): 0.1}, (1, 1.0), 3),
        ({(0, 1.0): 0.2, (0, 0.5): 0.2}, (0, 1.0), 2),  # no better: the simpler
    ],
)
def test_the_first_fold_chooses_bands_and_then_compression(monkeypatch, scores, chosen, trained):
    seen = []

    def train(self, config, fold):
        assert fold == 0
        seen.append((config.bands[0], config.exponent))
        return SimpleNamespace(config=config, history=SimpleNamespace(best_score=scores[seen[-1]]))

    monkeypatch.setattr(shared._Trainer, "train", train)
    bands = sorted({band for band, _ in scores})
    configs = [CoreConfig(bands=(band,), shapes=((16, 5),)) for band in bands]
    best = shared._Trainer((), (), (), None, RUN).choose(configs)
    assert (best.config.bands[0], best.config.exponent) == chosen
    assert len(seen) == trained
