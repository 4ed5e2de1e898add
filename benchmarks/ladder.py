"""What does each step from the mean pattern to the full model add to the mean response?

    python benchmarks/ladder.py WORKSPACE DATASET [--subjects 1,2,3] [--folds 5] [--published]

Every rung is fitted to the same training and validation images and scored on the same test images:
those of the prepared split, or with ``--folds`` all images, each held out once. What a rung chooses
(penalties, bands, receptive fields, when to stop, weights of the stack) it chooses by held-out
predictions of its training images; no rung sees the test images, and none was tuned to them.

    mean pattern             the mean response to the training images
    ridge, one band          the band and the penalty best for all voxels together
    ridge, tuned             the band and the penalty best for each voxel
    ridges, banded           himalaya's banded ridge: penalties per band and voxel, random search
    ridges, stacked          a ridge on each band, weighed voxel by voxel
    receptive fields         a Gaussian field × channels for each voxel, stacked over bands
    linear encoder           both of the last two, stacked: what every other mean is judged by
    network                  response network trained on this subject alone
    network, shared          response network trained on all subjects named
    published networks       BrainVAE and S2N mapper, preset tiny
    stack                    linear encoder, network (shared where there are several subjects)

The score is the median over reliable voxels (ncsnr > 0.2; all, where it is unknown) of the
correlation with the repeat average over test images. Differences to the linear encoder are paired:
their 95 % intervals resample test images, the same ones for both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import peak_memory, save
from himalaya.kernel_ridge import MultipleKernelRidgeCV

from synbrain_cli.bands import join_bands
from synbrain_cli.brain.prediction import predict_deep
from synbrain_cli.evaluation.resplit import deal_images, resplit
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workfolder import WorkFolder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.model.fields import fit_fields, is_grid
from synbrain_cli.model.linear import ALPHAS, Ridge, apply_ridge, fit_ridge, pool_tokens
from synbrain_cli.model.stack import fit_stack
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import SubjectExamples, load_examples, seen_by_networks
from synbrain_cli.training.shared_core import train_core

REFERENCE = "linear encoder"
SEARCHED = 100  # combinations of penalties that the banded ridge tries


@dataclass
class Fit:
    """Predictions of test images, and of training images by fits without them."""

    test: np.ndarray
    left_out: np.ndarray | None = None
    excess: np.ndarray | None = None  # as `fit_stack` takes it


class Ladder:
    """All rungs for one subject and one split."""

    def __init__(
        self,
        workspace: Workspace,
        subjects: list[tuple[PreparedSubject, TokenStore]],
        which: int,
        seed: int,
    ) -> None:
        self.workspace, self.subjects = workspace, subjects
        self.subject, self.store = subjects[which]
        self.run = RunContext(seed, progress=Progress(quiet=True))
        self.examples: SubjectExamples = load_examples(self.subject, self.store)
        self.test = TestSet.load(self.subject, self.store, least=2)
        self.tokens = self.examples.scaler(self.test.tokens)
        self.y = self.examples.both.averages
        self.seconds: dict[str, float] = {}
        self.gigabytes: dict[str, float] = {}
        self.fits: dict[str, Fit] = {}
        self.chosen: dict[str, Any] = {}  # by the images that networks left out

    def generator(self) -> np.random.Generator:
        return np.random.default_rng([self.run.seed, 1])

    def climb(self, published: bool) -> None:
        rungs: dict[str, Callable[[], Fit]] = {
            "mean pattern": self.mean_pattern,
            "ridge, one band": self.one_band,
            "ridge, tuned": self.tuned,
            "ridges, banded": self.banded,
            "ridges, stacked": self.stacked,
            "receptive fields": self.receptive_fields,
            REFERENCE: self.linear,
            "network": lambda: self.network([(self.subject, self.store)]),
        }
        if len(self.subjects) > 1:
            rungs["network, shared"] = lambda: self.network(self.subjects)
        if published:
            rungs["published networks"] = self.published
        rungs["stack"] = self.stack
        for name, rung in rungs.items():
            start = time.process_time()
            self.fits[name] = rung()
            self.seconds[name] = time.process_time() - start
            self.gigabytes[name] = peak_memory() / 1e9

    def mean_pattern(self) -> Fit:
        mean = self.y.mean(0)
        return Fit(np.broadcast_to(mean, (len(self.tokens), len(mean))).copy())

    def one_band(self) -> Fit:
        self.ridges = []
        for stored, band in zip(self.examples.both.tokens.bands, self.tokens.bands, strict=True):
            fit, left_out = fit_ridge(pool_tokens(stored), self.y, self.generator())
            self.ridges.append(Fit(Ridge(**fit).predict(band), left_out))
        self.errors = np.array([((one.left_out - self.y) ** 2).sum(0) for one in self.ridges])
        best = int(self.errors.sum(1).argmin())
        features = pool_tokens(self.examples.both.tokens.bands[best])
        self.band = best
        # One penalty for all voxels: the one most voxels would choose among those of the tuned fit
        fit, _ = fit_ridge(features, self.y, self.generator())
        alpha = np.float32(np.exp(np.median(np.log(fit["alphas"]))))
        scores = (features - fit["feature_mean"]) @ fit["components"]
        powers = (scores**2).sum(0)[:, None]
        own = scores.T @ (self.y - fit["intercept"]) / (powers + alpha)
        return Fit(apply_ridge(fit | {"coefficients": own}, pool_tokens(self.tokens.bands[best])))

    def tuned(self) -> Fit:
        best = self.errors.argmin(0)
        return Fit(
            np.take_along_axis(np.array([r.test for r in self.ridges]), best[None, None], 0)[0]
        )

    def banded(self) -> Fit:
        kernels, new = [], []
        for stored, band in zip(self.examples.both.tokens.bands, self.tokens.bands, strict=True):
            x = pool_tokens(stored)
            level = x.mean(0)
            scale = np.sqrt(((x - level) ** 2).sum(1).mean())
            x, z = (x - level) / scale, (pool_tokens(band) - level) / scale
            kernels.append(x @ x.T)
            new.append(z @ x.T)
        mean = self.y.mean(0)
        fit = MultipleKernelRidgeCV(
            kernels="precomputed",
            solver="random_search",
            solver_params={"n_iter": SEARCHED, "alphas": ALPHAS, "progress_bar": False},
            cv=5,
            random_state=self.run.seed,
        ).fit(np.stack(kernels), self.y - mean)
        return Fit(np.float32(fit.predict(np.stack(new)) + mean))

    def stacked(self) -> Fit:
        return self._stack(self.ridges)

    def receptive_fields(self) -> Fit:
        self.fields = []
        for stored, band in zip(self.examples.both.tokens.bands, self.tokens.bands, strict=True):
            if is_grid(stored.shape[1]):
                field, left_out = fit_fields(stored, self.y, self.generator())
                self.fields.append(Fit(field.predict(band), left_out))
        return self._stack(self.fields)

    def linear(self) -> Fit:
        return self._stack([*self.ridges, *self.fields])

    def network(self, subjects: list[tuple[PreparedSubject, TokenStore]]) -> Fit:
        found = train_core(self.workspace, subjects, self.run).of_subject(self.subject.label)
        core = found.config.core
        bands = join_bands([self.store.bands[k].spec for k in core.bands])
        name = "network" if len(subjects) == 1 else "network, shared"
        self.chosen[name] = {"bands": bands, "exponent": core.exponent}
        predicted = found.ensemble.predict(self.test.tokens)
        return Fit(predicted, np.asarray(found.held_out), found.excess)

    def published(self) -> Fit:
        import torch

        from synbrain_cli.config import PRESETS
        from synbrain_cli.model.joint_tokens import JointTokens
        from synbrain_cli.pipeline.train import _initial_networks
        from synbrain_cli.training.networks import train_networks
        from synbrain_cli.training.voxel_order import default_order, subject_order

        order = default_order(self.subject)
        joint = JointTokens.fit(self.examples.train.tokens)
        seen = seen_by_networks(self.examples, joint)
        voxels = torch.from_numpy(subject_order(self.subject, order))
        untrained = _initial_networks(PRESETS["tiny"], order, voxels, seen, self.run)
        with tempfile.TemporaryDirectory() as folder:
            places = [Path(folder) / name for name in ("model", "partial", "recovery")]
            for place in places:
                place.mkdir()
            work = WorkFolder(*places, is_finished=False, is_resumed=False)
            networks = train_networks(untrained, seen, self.run, work)
        return Fit(predict_deep(networks.vae, networks.mapper, joint(self.tokens), self.y.shape[1]))

    def stack(self) -> Fit:
        best = "network, shared" if "network, shared" in self.fits else "network"
        return self._stack([self.fits[REFERENCE], self.fits[best]])

    def _stack(self, parts: list[Fit]) -> Fit:
        excess = {k: part.excess for k, part in enumerate(parts) if part.excess is not None}
        left_out = [part.left_out for part in parts]
        weights, left_out = fit_stack(left_out, self.y, self.generator(), excess)
        return Fit(sum(w * p.test for w, p in zip(weights, parts, strict=True)), left_out)


def correlation(predicted: np.ndarray, recorded: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Voxelwise correlations of resampled images, (n_boot, n_voxels)."""
    shares = counts / counts.sum(1, keepdims=True)
    p, y = predicted.astype(float), recorded.astype(float)
    means = shares @ p, shares @ y
    cross = shares @ (p * y) - means[0] * means[1]
    variance = (shares @ p**2 - means[0] ** 2) * (shares @ y**2 - means[1] ** 2)
    spread = np.sqrt(np.maximum(variance, 0))
    return np.divide(cross, spread, out=np.zeros_like(cross), where=spread > 1e-9)


def score(parts: list[tuple[np.ndarray, np.ndarray]], chosen: np.ndarray, boot: Bootstrap) -> tuple:
    """Median over voxels of the mean over folds of r; and the same of every bootstrap sample."""
    one = [correlation(p, y, np.ones((1, len(p)))) for p, y in parts]
    generator = boot.generator()
    many = []
    for p, y in parts:
        counts = generator.multinomial(len(p), np.full(len(p), 1 / len(p)), boot.n_boot)
        many.append(correlation(p, y, counts))
    return (
        float(np.median(np.mean(one, 0)[0][chosen])),
        np.median(np.mean(many, 0)[:, chosen], axis=1),
    )


def choose_reliable(ncsnr: np.ndarray) -> np.ndarray:
    """Voxels that are scored, bool (n_voxels,): those of ncsnr > 0.2; all, where it is unknown."""
    return ncsnr > 0.2 if np.isfinite(ncsnr).any() else np.ones(len(ncsnr), bool)


def paired(
    fits: list[dict[str, Fit]],
    recorded: list[np.ndarray],
    reference: str,
    chosen: np.ndarray,
    boot: Bootstrap,
) -> dict[str, dict[str, Any]]:
    """Scores of the fits of every split, by name, and their paired differences to one of them."""
    scores = {
        name: score(
            [(fit[name].test, y) for fit, y in zip(fits, recorded, strict=True)], chosen, boot
        )
        for name in fits[0]
    }
    best, samples_of_best = scores[reference]
    return {
        name: {
            "r": value,
            "ci": np.quantile(samples, [0.025, 0.975]).tolist(),
            "difference": value - best,
            "difference_ci": np.quantile(samples - samples_of_best, [0.025, 0.975]).tolist(),
        }
        for name, (value, samples) in scores.items()
    }


def describe(name: str, row: dict[str, Any], reference: str) -> str:
    """One line of a score."""
    low, high = row["difference_ci"]
    return (
        f"{name:24} r {row['r']:.3f}  difference to {reference} {row['difference']:+.3f} "
        f"({low:+.3f} to {high:+.3f})"
    )


def compare(ladders: list[Ladder], boot: Bootstrap) -> dict[str, Any]:
    """Score all rungs of one subject, and their paired differences to the linear encoder."""
    chosen = choose_reliable(ladders[0].test.ncsnr)
    recorded = [ladder.test.averages for ladder in ladders]
    rungs = paired([ladder.fits for ladder in ladders], recorded, REFERENCE, chosen, boot)
    for name, row in rungs.items():
        row["processor_seconds"] = sum(ladder.seconds[name] for ladder in ladders)
        row["peak_gigabytes_so_far"] = ladders[-1].gigabytes[name]
    ceiling = np.mean([ladder.test.ceiling for ladder in ladders], 0)
    return {
        "rungs": rungs,
        "networks_of_splits": [ladder.chosen for ladder in ladders],
        "median_ceiling": float(np.median(ceiling[chosen])),
        "n_voxels": int(chosen.sum()),
        "n_test_images": sum(map(len, recorded)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--subjects", help="labels, separated by commas; default: all prepared")
    parser.add_argument("--encoder", action="append", help="as prepare takes it; default: all")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--published", action="store_true", help="train BrainVAE and S2N, too")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    store = workspace.find_tokens(arguments.dataset, arguments.encoder, print)
    labels = (
        (arguments.subjects or "").split(",")
        if arguments.subjects
        else sorted(
            path.name.removeprefix("sub-")
            for path in (workspace.prepared / arguments.dataset).glob("sub-*/")
        )
    )
    subjects = [workspace.find_subject(label, arguments.dataset, print) for label in labels]
    boot, record = Bootstrap(1000, arguments.seed), {}
    with tempfile.TemporaryDirectory() as scratch:  # cores that subjects share are trained once
        for which, subject in enumerate(subjects):
            splits = [(subjects, which)]
            if arguments.folds:
                folds = deal_images(subject, store, arguments.folds, arguments.seed)
                splits = [([one], 0) for one in resplit(subject, folds, arguments.seed)]
            ladders = []
            for split, place in splits:
                known = [(one, store) for one in split]
                ladders.append(Ladder(Workspace(Path(scratch)), known, place, arguments.seed))
                ladders[-1].climb(arguments.published)
                print(f"{subject.label}: split {len(ladders)} of {len(splits)}", flush=True)
            record[subject.label] = compare(ladders, boot)
            for name, row in record[subject.label]["rungs"].items():
                line = describe(name, row, f"the {REFERENCE}")
                print(f"{subject.label} {line}  {row['processor_seconds']:.0f} s", flush=True)
    command = f"python benchmarks/ladder.py WORKSPACE {arguments.dataset}" + (
        f" --folds {arguments.folds}" if arguments.folds else ""
    )
    settings = {"folds": arguments.folds, "seed": arguments.seed, "bands": store.spec}
    print(save(f"ladder_{arguments.dataset}", command, {"settings": settings, "subjects": record}))


if __name__ == "__main__":
    main()
