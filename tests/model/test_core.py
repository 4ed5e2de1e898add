"""The core that subjects share: masks, the cortical sheet, and that it learns."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from one_band import one_scaler

from synbrain_cli.config import CoreConfig, StageConfig
from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.model.core import (
    LEAST,
    NEAR,
    OWN,
    Core,
    CoreEnsemble,
    CoreEvidence,
    SharedCore,
    Sheet,
    Voxels,
    as_tensors,
    load_core,
    read,
    receptive_masks,
)
from synbrain_cli.model.fields import best_fields
from synbrain_cli.model.fit import Stage, fit
from synbrain_cli.model.linear import apply_ridge, fit_ridge
from synbrain_cli.model.tokens import TokenScaler
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens

SMALL = CoreConfig(shapes=((64, 6),), hidden=10, n_local=5, bottleneck=4, n_global=7)
TWO = CoreConfig(
    bands=(0, 2), shapes=((64, 6), (25, 3)), hidden=10, n_local=5, bottleneck=4, n_global=7
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(rng, *shape):
    return torch.from_numpy(rng.normal(0, 1, shape).astype(np.float32))


def some_tokens(rng, n, config=SMALL, scale=1.0):
    """Of every band."""
    return [scale * normal(rng, n, *shape) for shape in config.shapes]


def some_voxels(rng, n, config=SMALL):
    """Voxels that read something: (field, local, whole, offset)."""
    field = torch.from_numpy(
        np.c_[rng.uniform(0, 1, (n, 2)), np.log(rng.uniform(0.1, 0.4, n))].astype(np.float32)
    )
    parts = normal(rng, config.n_read, n), normal(rng, config.n_global, n), normal(rng, n)
    return (field, *parts)


def sphere(rng, n=60):
    """Points on a sphere of fsaverage's radius."""
    points = rng.normal(0, 1, (n, 3))
    return 100 * points / np.linalg.norm(points, axis=1, keepdims=True)


# --------------------------------------------------------------------------- core and read


def test_features_have_their_shapes_and_signs(rng):
    for config in (SMALL, TWO):
        local, whole = Core(config, generator())(some_tokens(rng, 9, config, 3))
        assert [band.shape for band in local] == [(9, n, 5) for n, _ in config.shapes]
        assert whole.shape == (9, 7)
        assert all((band > 0).all() for band in local)
        assert (whole >= 0).all()
        assert (whole > 0).any()


def test_local_features_are_of_their_token_alone(rng):
    core, tokens = Core(TWO, generator()), some_tokens(rng, 2, TWO)
    changed = [band.clone() for band in tokens]
    changed[1][:, 13] += 1
    (before, _), (after, _) = core(tokens), core(changed)
    assert torch.equal(before[0], after[0])
    differs = (before[1] != after[1]).any(2).all(0)
    assert differs.nonzero().flatten().tolist() == [13]


def test_global_features_see_every_band(rng):
    core, tokens = Core(TWO, generator()), some_tokens(rng, 4, TWO)
    for band in (0, 1):
        changed = [one + 1 if k == band else one for k, one in enumerate(tokens)]
        assert not torch.allclose(core(tokens)[1], core(changed)[1])


def test_weights_come_from_the_generator_alone():
    states = []
    for seed, own in ((0, 1), (9, 1), (0, 2)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states.append(SharedCore(SMALL, [np.eye(3)], generator(own)).state_dict())
    one, same, other = states
    assert all(torch.equal(one[k], same[k]) for k in one)
    random = [k for k in one if k.startswith("core") or k in ("shared.local", "shared.whole")]
    assert len(random) == 10
    assert not any(torch.equal(one[k], other[k]) for k in random)


def test_a_voxel_reads_local_features_in_its_field_and_global_ones_as_they_are(rng):
    local, whole = [normal(rng, 4, 64, 5), normal(rng, 4, 25, 5)], normal(rng, 4, 7)
    voxels = field, weights, whole_weights, offset = some_voxels(rng, 3, TWO)
    found = read((local, whole), voxels, 1.0)
    masks = receptive_masks(field, 8), receptive_masks(field, 5)
    assert found.shape == (4, 3)
    for image, voxel in itertools.product(range(4), range(3)):
        pooled = torch.cat(
            [(m[voxel][:, None] * one[image]).sum(0) for m, one in zip(masks, local, strict=True)]
        )
        expected = pooled @ weights[:, voxel] + whole[image] @ whole_weights[:, voxel]
        torch.testing.assert_close(found[image, voxel], expected + offset[voxel])


def test_an_exponent_compresses_what_is_within_a_field_and_nothing_else(rng):
    local, whole = [normal(rng, 4, 64, 5).abs(), normal(rng, 4, 25, 5).abs()], normal(rng, 4, 7)
    field, weights, whole_weights, offset = some_voxels(rng, 3, TWO)
    found = read((local, whole), (field, weights, whole_weights, offset), 0.5)
    masks = receptive_masks(field, 8), receptive_masks(field, 5)
    within = [torch.einsum("vt,ntk->nvk", m, one) for m, one in zip(masks, local, strict=True)]
    expected = torch.einsum("nvk,kv->nv", (torch.cat(within, 2) + LEAST).sqrt(), weights)
    torch.testing.assert_close(found, expected + whole @ whole_weights + offset)
    adding_up = read((local, whole), (field, weights, whole_weights, offset), 1.0)
    assert not torch.allclose(found, adding_up)


def test_compression_has_a_slope_where_there_is_nothing(rng):
    """Features are 0 where they underflow: the slope of a root there would be infinite."""
    local = [torch.zeros(2, 64, 5, requires_grad=True)]
    voxels = some_voxels(rng, 3, SMALL)
    read((local, torch.zeros(2, 7)), voxels, 0.5).sum().backward()
    assert torch.isfinite(local[0].grad).all()


# ------------------------------------------------------------------------- receptive fields


@pytest.mark.parametrize("side", [4, 7, 16])
def test_masks_sum_to_one_wherever_they_are(side, rng):
    field = np.c_[rng.uniform(-1, 2, (200, 2)), rng.uniform(-6, 2, 200)].astype(np.float32)
    mask = receptive_masks(torch.from_numpy(field), side)
    assert mask.shape == (200, side**2)
    assert (mask > 0).all()
    torch.testing.assert_close(mask.sum(1), torch.ones(200))


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.3, 0.6), (0.7, 0.35)])
def test_a_mask_is_centred_where_its_field_says(x, y):
    """x is to the right, y down; tokens come row by row."""
    side = 16
    field = torch.tensor([[x, y, np.log(0.08)]])
    mask = receptive_masks(field, side).numpy().reshape(side, side)
    centre = (np.arange(side) + 0.5) / side
    assert (mask.sum(0) * centre).sum() == pytest.approx(x, abs=2e-3)  # columns
    assert (mask.sum(1) * centre).sum() == pytest.approx(y, abs=2e-3)  # rows
    spread = (mask.sum(0) * (centre - x) ** 2).sum() ** 0.5
    assert spread == pytest.approx(0.08, rel=0.05)


def test_right_and_down_are_those_of_tokens_row_by_row():
    right, down = receptive_masks(torch.tensor([[0.9, 0.1, -3.0], [0.1, 0.9, -3.0]]), 4)
    assert right.argmax() == 3  # last of the first row
    assert down.argmax() == 12  # first of the last row


def test_masks_are_gaussian():
    field = np.float32([[0.4, 0.55, np.log(0.2)]])
    mask = receptive_masks(torch.from_numpy(field), 8)[0].numpy()
    centre = (np.arange(8) + 0.5) / 8
    y, x = np.meshgrid(centre, centre, indexing="ij")
    expected = np.exp(-((x - 0.4) ** 2 + (y - 0.55) ** 2) / (2 * 0.2**2)).ravel()
    np.testing.assert_allclose(mask, expected / expected.sum(), rtol=1e-3, atol=1e-6)


# -------------------------------------------------------------------------------- the sheet


@pytest.fixture
def sheet(rng):
    points = sphere(rng, 400)
    places = [(points[:150] + rng.normal(0, 2, (150, 3)), np.arange(150) % 2)]
    return Sheet.around({0: points, 1: points[::-1].copy()}, places), *places[0]


def test_nodes_are_the_vertices_near_somebodys_voxels(rng):
    vertices = {0: sphere(rng, 500), 1: sphere(rng, 500)}
    positions = sphere(rng, 40)
    positions[:3] = np.nan
    side = np.r_[np.zeros(20, int), np.ones(20, int)]
    halves = [(positions[:25], side[:25]), (positions[25:], side[25:])]
    sheet = Sheet.around(vertices, halves)
    for k in (0, 1):
        known = positions[(side == k) & np.isfinite(positions[:, 0])]
        gap = np.linalg.norm(vertices[k][:, None] - known[None], axis=2).min(1)
        np.testing.assert_array_equal(sheet.nodes[sheet.side == k], vertices[k][gap < NEAR])
    assert 0 < len(sheet.nodes) < 1000


def test_memory_does_not_grow_with_vertices_times_voxels(rng):
    vertices, points = sphere(rng, 2562), sphere(rng, 1500)
    tracemalloc.start()
    sheet = Sheet.around({0: vertices}, [(points, np.zeros(1500, int))])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sheet.nodes) > 1000
    assert peak < 20e6


def test_weights_of_nodes_sum_to_one_or_to_none(sheet, rng):
    sheet, positions, side = sheet
    positions = positions.copy()
    positions[::7] = np.nan
    positions[3, 1] = np.nan  # one coordinate is enough
    basis = sheet.basis(positions, side)
    assert basis.dtype == np.float32
    assert basis.shape == (150, len(sheet.nodes))
    off = ~np.isfinite(positions).all(1)
    assert (basis[off] == 0).all()
    np.testing.assert_allclose(basis[~off].sum(1), 1, atol=1e-5)
    assert (basis >= 0).all()


def test_weights_never_cross_to_the_other_hemisphere(sheet):
    sheet, positions, side = sheet
    for mine in (side, 1 - side):
        basis = sheet.basis(positions, mine)
        assert (basis[:, sheet.side == 0][mine == 1] == 0).all()
        assert (basis[:, sheet.side == 1][mine == 0] == 0).all()


def test_nearer_nodes_weigh_more(sheet):
    sheet, positions, side = sheet
    basis = sheet.basis(positions, side)
    for row, place, k in zip(basis, positions, side, strict=True):
        own = sheet.side == k
        gap = np.linalg.norm(sheet.nodes[own] - place, axis=1)
        assert (np.diff(row[own][np.argsort(gap)]) <= 1e-7).all()


def test_voxels_far_from_everybodys_lie_nowhere(sheet):
    sheet = Sheet(sheet[0].nodes[:5], sheet[0].side[:5])
    assert (sheet.basis(-sheet.nodes, sheet.side) == 0).all()


def test_where_nobodys_voxels_are_known_nobody_reads_the_sheet(rng):
    nowhere = np.full((12, 3), np.nan), np.zeros(12, int)
    sheet = Sheet.around({0: sphere(rng), 1: sphere(rng)}, [nowhere])
    for positions in (nowhere[0], sphere(rng, 12)):
        basis = sheet.basis(positions, nowhere[1])
        assert basis.shape == (12, 1)
        assert (basis == 0).all()


# ------------------------------------------------------------------- subjects and the field


@pytest.fixture
def network(sheet):
    """Two subjects on one sheet; ten voxels of the second are off it."""
    sheet, positions, side = sheet
    other = positions[:60].copy()
    other[:10] = np.nan
    bases = [sheet.basis(positions, side), sheet.basis(other, side[:60])]
    return SharedCore(SMALL, bases, generator())


def test_responses_have_a_column_a_voxel(network, rng):
    tokens = some_tokens(rng, 6)
    assert network(tokens, 0).shape == (6, 150)
    assert network(tokens, 1).shape == (6, 60)


def test_dropout_multiplies_global_features(network, rng):
    tokens = some_tokens(rng, 6)
    kept = torch.ones(6, 7)
    assert torch.equal(network(tokens, 0), network(tokens, 0, kept))
    local, whole = network.core(tokens)
    expected = read((local, torch.zeros_like(whole)), network.voxels(0), 1.0)
    torch.testing.assert_close(network(tokens, 0, 0 * kept), expected)
    assert not torch.allclose(network(tokens, 0), expected)


def test_who_deviates_in_nothing_reads_the_field(network, rng):
    """Voxels at the same places read the same: a source subject's, and a new one's."""
    with torch.no_grad():
        network.shared.field.copy_(normal(rng, *network.shared.field.shape) / 4 + 0.5)
        assert not any(p.any() for p in network.subjects[0].parameters())
    new = Voxels(60, SMALL).moved(network.basis(0)[:60], network.shared, OWN)
    tokens = some_tokens(rng, 5)
    with torch.inference_mode():
        prior = read(network.core(tokens), new, 1.0)
        torch.testing.assert_close(prior, network(tokens, 0)[:, :60])
        torch.testing.assert_close(prior[:, 10:], network(tokens, 1)[:, 10:])
        # Voxels that lie nowhere read nothing.
        assert (network(tokens, 1)[:, :10] == 0).all()
        assert prior.std(0).min() > 0


def test_deviations_are_a_voxels_own(network, rng):
    before = network.voxels(0)
    for name in ("field", "local", "whole"):
        with torch.no_grad():
            getattr(network.subjects[0], name).select(0 if name == "field" else 1, 4).fill_(2)
    for k, (old, new) in enumerate(zip(before, network.voxels(0), strict=True)):
        moved = new - old if k in (0, 3) else (new - old).T
        if k < 3:
            torch.testing.assert_close(moved[4], torch.full_like(moved[4], 2 * OWN))
            moved = torch.cat([moved[:4], moved[5:]])
        assert (moved == 0).all()


def test_it_starts_from_the_fields_found(network):
    same = np.float32([0.2, 0.7, -1.5])
    found = [np.tile(same, (len(network.basis(k)), 1)) for k in (0, 1)]
    found[1][:10] = np.random.default_rng(1).uniform(0, 1, (10, 3))
    network.start_from(found)
    for k in (0, 1):  # of one opinion everywhere; who lies nowhere keeps what was found
        np.testing.assert_allclose(network.voxels(k)[0].detach(), found[k], atol=1e-5)
    assert not network.subjects[0].field.any()


def test_the_field_starts_as_the_average_of_those_near_and_in_the_middle_elsewhere(sheet):
    sheet, positions, side = sheet
    left = side == 0
    basis = sheet.basis(positions[left], side[left])
    network = SharedCore(SMALL, [basis], generator())
    found = np.c_[positions[left][:, :2] / 200 + 0.5, np.full(left.sum(), -2.0)]
    network.start_from([found])
    nodes = network.shared.field.detach().numpy()
    middle = np.tile(np.float32([0.5, 0.5, np.log(0.25)]), ((sheet.side == 1).sum(), 1))
    np.testing.assert_array_equal(nodes[sheet.side == 1], middle)
    # A smooth map is kept: each voxel starts near what was found at its place.
    start = network.voxels(0)[0].detach().numpy()
    for axis in (0, 1):
        assert np.corrcoef(start[:, axis], found[:, axis])[0, 1] > 0.95
    np.testing.assert_allclose(start[:, 2], -2, atol=1e-5)


def test_every_weight_decays_as_its_group_says(network):
    groups = network.parameter_groups(SMALL)
    listed = [id(p) for group in groups for p in group["params"]]
    # Each once; the field's own offset is read by nobody (`TrainedCore` keeps none).
    read_ones = [p for p in network.parameters() if p is not network.shared.offset]
    assert sorted(listed) == sorted(map(id, read_ones))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(network.core.local[0][0].weight)] == SMALL.decay_core
    assert decay[id(network.shared.local)] == SMALL.decay_field
    assert decay[id(network.subjects[1].field)] == SMALL.decay_own
    assert decay[id(network.shared.field)] == decay[id(network.subjects[0].offset)] == 0

    def nothing(items, noise):
        return sum(0 * p.sum() for p in read_ones)

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1)
    schedule = StageConfig(1, 5, 0.01, 0.5)
    stage = Stage("core", network, groups, nothing, lambda network: 0.0, 20, schedule)
    fit(stage, RunContext(0))
    rates = 0.01 * np.array([0.55 + 0.45 * np.cos(np.pi * k / 4) for k in range(4)])
    for parameter in read_ones:
        expected = np.prod(1 - rates * decay[id(parameter)])
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-5)


def test_a_subject_without_a_field_has_its_own_weights(sheet, rng):
    """They start at random, and decay as a field does."""
    sheet, positions, side = sheet
    nowhere = np.zeros((30, len(sheet.nodes)), np.float32)
    network = SharedCore(SMALL, [sheet.basis(positions, side), nowhere], generator())
    assert network.alone == [False, True]
    own = network.subjects[1]
    assert own.local.std() > 0.03
    assert not network.subjects[0].local.any()
    fields = [rng.uniform(0, 1, (n, 3)) for n in (150, 30)]
    network.start_from(fields)
    np.testing.assert_allclose(network.voxels(1)[0].detach(), fields[1], atol=1e-6)
    torch.testing.assert_close(network.voxels(1)[1], own.local)
    groups = network.parameter_groups(SMALL)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == sum(1 for _ in network.parameters())
    assert decay[id(own.local)] == decay[id(own.whole)] == SMALL.decay_field
    assert decay[id(own.field)] == decay[id(own.offset)] == 0
    assert decay[id(network.subjects[0].local)] == SMALL.decay_own
    with torch.no_grad():  # the field is nobody's here
        network.shared.local.add_(1)
    torch.testing.assert_close(network.voxels(1)[1], own.local)


# ------------------------------------------------------------------------------- evidence


@pytest.fixture
def ensemble(rng):
    """Three cores that see the first and the third of three bands."""
    config = replace(TWO, n_members=3)
    arrays = [rng.normal(2, 3, (30, *shape)) for shape in config.shapes]
    scaler = TokenScaler(tuple(one_scaler(array).bands[0] for array in arrays))
    cores = tuple(Core(config, generator(k)).eval() for k in range(3))
    return CoreEnsemble(config, scaler, cores, tuple(some_voxels(rng, 25, config) for _ in cores))


@pytest.fixture
def evidence(ensemble):
    return CoreEvidence(ensemble, 15)


def raw_tokens(rng, n):
    """Of a model's three bands, as encoded; the second is seen by no core."""
    shapes = (64, 6), (16, 9), (25, 3)
    return Tokens(tuple(rng.normal(2, 3, (n, *shape)).astype(np.float32) for shape in shapes))


def test_an_ensemble_averages_what_its_cores_predict_from_their_bands(ensemble, rng):
    tokens = raw_tokens(rng, 7)
    seen = as_tensors(ensemble.scaler(Tokens.of(tokens.bands[0], tokens.bands[2])))
    with torch.no_grad():
        each = [
            read(core(seen), voxels, 1.0).numpy()
            for core, voxels in zip(ensemble.cores, ensemble.voxels, strict=True)
        ]
    found = ensemble.predict(tokens)
    np.testing.assert_allclose(found, np.mean(each, 0), atol=1e-5)
    assert found.dtype == np.float32
    other = Tokens.of(tokens.bands[0], 0 * tokens.bands[1], tokens.bands[2])
    np.testing.assert_array_equal(ensemble.predict(other), found)


def test_evidence_is_the_sources_responses_and_the_prior(evidence, rng):
    tokens = raw_tokens(rng, 7)
    sources, prior = evidence(tokens)
    np.testing.assert_array_equal(np.c_[sources, prior], evidence.ensemble.predict(tokens))
    assert sources.shape == (7, 15)
    assert prior.shape == (7, 10)
    assert sources.dtype == prior.dtype == np.float32


@pytest.mark.parametrize("batch", [1, 3, 10, 64])
def test_an_image_is_answered_alike_in_any_batch(ensemble, batch, rng):
    tokens = raw_tokens(rng, 10)
    whole = ensemble.predict(tokens)
    np.testing.assert_allclose(ensemble.predict(tokens, batch), whole, rtol=1e-5, atol=1e-5)
    alone = ensemble.predict(tokens[4:5])
    np.testing.assert_allclose(alone[0], whole[4], rtol=1e-5, atol=1e-5)


def test_an_ensemble_compresses_as_its_cores_were_trained(ensemble, rng):
    tokens = raw_tokens(rng, 7)
    config = replace(ensemble.config, exponent=0.5)
    compressed = CoreEnsemble(config, ensemble.scaler, ensemble.cores, ensemble.voxels)
    seen = as_tensors(ensemble.scaler(Tokens.of(tokens.bands[0], tokens.bands[2])))
    with torch.no_grad():
        each = [
            read(core(seen), voxels, 0.5).numpy()
            for core, voxels in zip(ensemble.cores, ensemble.voxels, strict=True)
        ]
    np.testing.assert_allclose(compressed.predict(tokens), np.mean(each, 0), atol=1e-5)
    assert np.abs(compressed.predict(tokens) - ensemble.predict(tokens)).max() > 0.01


def test_evidence_through_a_file_is_bit_equal(evidence, rng, tmp_path):
    save_arrays(tmp_path / "core.safetensors", evidence.arrays())
    config = evidence.ensemble.config
    back = CoreEvidence.from_arrays(config, load_arrays(tmp_path / "core.safetensors"))
    assert back.n_sources == 15
    tokens = raw_tokens(rng, 9)
    for one, other in zip(evidence(tokens), back(tokens), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_core_of_other_settings_is_not_loaded(evidence):
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_core(replace(TWO, hidden=11), evidence.arrays(), "core.1.")


# ------------------------------------------------------------------------------- learning


def test_it_learns_what_subjects_share_and_no_linear_encoder_finds(rng):
    """Pooled energies of known receptive fields: their images' tokens correlate with nothing."""
    config = CoreConfig(shapes=((64, 4),), hidden=16, n_local=8, bottleneck=8, n_global=8)
    points = sphere(rng, 3000)
    patch = points[points[:, 2] > 85]
    nodes = Sheet(patch[::4], np.zeros(len(patch[::4]), int))
    filters = np.linalg.qr(rng.normal(0, 1, (4, 4)))[0][:, :3]

    def truth(tokens, places):
        """Tuning and receptive field are smooth over the sheet: who sits where sees that."""
        field = np.c_[places[:, :2] / 130 + 0.5, np.full(len(places), np.log(0.2))]
        mask = receptive_masks(torch.from_numpy(np.float32(field)), 8).numpy()
        energy = np.log(0.1 + np.einsum("vt,ntk->nvk", mask, (tokens @ filters) ** 2))
        tuning = np.cos(places[:, :1] / 40 + np.array([0, 2.1, 4.2]))
        return ((energy - energy.mean(0)) * tuning).sum(2)

    subjects = []
    for k in range(2):
        places = patch[k::3][:60]
        tokens = rng.normal(0, 1, (340, 64, 4)).astype(np.float32)
        signal = truth(tokens, places)
        averages = np.float32(signal / signal.std(0) + rng.normal(0, 0.7, signal.shape))
        subjects.append((places, tokens, averages))
    n_train = 300
    bases = [nodes.basis(places, np.zeros(60, int)) for places, _, _ in subjects]
    network = SharedCore(config, bases, generator())
    network.start_from([best_fields([t[:n_train]], y[:n_train]) for _, t, y in subjects])
    tokens = [torch.from_numpy(t) for _, t, _ in subjects]
    averages = [torch.from_numpy(y) for _, _, y in subjects]

    def loss(items, noise):
        error = 0
        for k in (0, 1):
            mine = items[items // n_train == k] % n_train
            if len(mine):
                error += (network([tokens[k][mine]], k) - averages[k][mine]).square().mean(1).sum()
        return error / len(items)

    def share(predicted, held_out):
        return 1 - float(((held_out - predicted) ** 2).mean() / (held_out**2).mean())

    @torch.inference_mode()
    def score(network):
        return np.mean(
            [share(network([t[n_train:]], k), y[n_train:]) for k, (_, t, y) in enumerate(known)]
        )

    known = [(None, t, y) for t, y in zip(tokens, averages, strict=True)]
    schedule = StageConfig(18, 32, 1.5e-2, 0.0, warmup_steps=20, clip_norm=0.0, patience=18)
    groups = network.parameter_groups(config)
    stage = Stage("core", network, groups, loss, score, 2 * n_train, schedule)
    state = fit(stage, RunContext(0))
    losses = [epoch["loss"] for epoch in state["history"]]
    assert losses[-1] < 0.75 * losses[0]
    ridge = []
    for _, t, y in subjects:
        features = t.reshape(len(t), -1)
        linear, _ = fit_ridge(features[:n_train], y[:n_train], np.random.default_rng(0))
        ridge.append(share(apply_ridge(linear, features[n_train:]), y[n_train:]))
    assert max(ridge) < 0.05
    assert score(network) > 0.25  # at most 1 / (1 + 0.7²) = 0.67

    # A third subject, without data: the field at the positions of their voxels.
    places = patch[2::3][:60]
    new = Voxels(60, config).moved(
        torch.from_numpy(nodes.basis(places, np.zeros(60, int))), network.shared, OWN
    )
    images = rng.normal(0, 1, (100, 64, 4)).astype(np.float32)
    with torch.inference_mode():
        prior = read(network.core([torch.from_numpy(images)]), new, 1.0).numpy()
    expected = truth(images, places)
    r = [np.corrcoef(prior[:, v], expected[:, v])[0, 1] for v in range(60)]
    assert np.mean(r) > 0.5
    shuffled = [np.corrcoef(np.roll(prior[:, v], 9), expected[:, v])[0, 1] for v in range(60)]
    assert abs(np.mean(shuffled)) < 0.1
