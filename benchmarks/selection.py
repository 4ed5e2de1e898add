"""Are images that `synbrain select` chooses what they are said to be, and what does it cost?

    python benchmarks/selection.py simulated WORKSPACE MODEL
    python benchmarks/selection.py recorded WORKSPACE DATASET IMAGES [--folds 5]
    python benchmarks/selection.py cost MODEL_FOLDER [--images 200,1000,10000]

``simulated``: a model of a simulated subject, whose true responses are known, chooses 5, 10, 20 and
40 images for and against every ROI: of its 200 test images, and of the photographs of the other
subjects, for which the simulation is run again. The slope of the true mean of these sets on their
estimate, both as deviations from all candidates, is 1 for an estimate that is right on average. The
estimates are the model's own, its own times the share that is believed (what `select` prints as
independent), and three others that were tried: what one half of the training images says of the set
that the other half chose, relative to what that says itself ("halves"), the same corrected for how
little halves agree on training images ("halves, corrected"), and the slope of recorded on predicted
responses alone ("recorded"). Pairs of areas are contrasted in all ways, and intervals of single
images compared with the truth.

``recorded``: the test images of each fold are ranked for every voxel or unit by a linear model of
the other folds, and looked up in what was recorded.

``cost``: time and most memory of the command on textures, and the encoder's share of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from itertools import permutations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from common import as_typed, save
from scipy.stats import spearmanr

from synbrain_cli.brain import Brain, load_model
from synbrain_cli.datasets import simulated as simulation
from synbrain_cli.datasets.nsd_design import image_id
from synbrain_cli.datasets.nsd_files import NSD, STIMULI
from synbrain_cli.experiments.screening import RegionReader, Screen, Values
from synbrain_cli.experiments.selection import widened
from synbrain_cli.experiments.selection_aims import Region
from synbrain_cli.experiments.selection_guard import Halves, TrainingData, fit_halves
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

SIZES = (5, 10, 20, 40)
QUIET = Progress(quiet=True)
NORMAL = 1.959964
AREAS = ("V1", "V2", "V3", "hV4", "V3A", "IPS0", "OFA", "FFA-1", "VWFA-1", "EBA", "OPA", "PPA")


def deviation(values: np.ndarray, chosen: np.ndarray) -> float:
    """Mean of a set, less that of all."""
    return float(values[chosen].mean() - values.mean())


def slope(estimates: list[float], truth: list[float]) -> float:
    """Slope through the origin of the truth on estimates."""
    x, y = np.array(estimates), np.array(truth)
    return float(x @ y / (x @ x))


# ------------------------------------------------------------------------------ simulated subjects


class Truth:
    """True mean responses of the regions of a simulated subject to any of the simulation's images.

    In the model's unit: the map of each voxel is that of its average recorded responses to training
    images on the true ones.
    """

    def __init__(self, workspace: Workspace, brain: Brain, data: TrainingData) -> None:
        root = workspace.root / "simulated"
        number = int(brain.subject)
        own = NSD(root).design.subject_images[number - 1]
        with np.load(root / f"truth/subj{brain.subject}.npz") as file:
            mean, driven = file["mean"].astype(float), file["driven"].astype(float)
        anew = simulate_again(root, number)  # known but for a map of each voxel
        self.true = np.empty(anew.shape)
        for v in range(anew.shape[1]):
            self.true[:, v] = np.polyval(np.polyfit(anew[own, v], driven[:, v], 1), anew[:, v])
        error = np.abs(self.true[own] - driven).max()
        if error > 1e-3:
            raise SystemExit(f"the simulation is another: it differs by {error:.3g}")
        self.true[own] = mean  # with what no image feature explains
        rows = data.trials_of(brain)
        shown = [image_id(name) for name in data.subject.trials["image"].to_numpy(str)[rows]]
        chosen = np.zeros(len(data.subject.trials), bool)
        chosen[rows] = True
        recorded = brain.standardize(data.subject.read_betas(chosen)) * brain.response_sd
        recorded += brain.response_mean
        for v in range(self.true.shape[1]):
            line = np.polyfit(self.true[shown, v], recorded[:, v], 1)
            self.true[:, v] = np.polyval(line, self.true[:, v])
        self.own = set(own.tolist())
        self.trained = set(shown)


def simulate_again(root: Path, number: int) -> np.ndarray:
    """Responses that image features explain, to all images: (n_images, n_voxels)."""
    config = simulation.SimulationConfig()
    *_, common = (seeds := np.random.SeedSequence(config.seed).spawn(3 + config.n_subjects))[:3]
    anatomy_seed, tuning_seed, _ = seeds[2 + number].spawn(3)
    with h5py.File(root / STIMULI) as file:
        stimuli = file["imgBrick"][:]
    layouts = {h: simulation.functional_layout(h) for h in simulation.HEMISPHERES}
    return simulation.build_responses(
        simulation.StimulusFeatures.of(stimuli),
        np.arange(len(stimuli)),
        layouts,
        simulation.build_anatomy(layouts, config.voxel_size, anatomy_seed),
        config.unexplained,
        (common, tuning_seed),
    ).driven


def simulated(workspace: Workspace, name: str) -> dict[str, Any]:
    """Compare estimates of chosen sets with the truth."""
    brain = load_model(workspace.weights / name, "cpu")
    data, run = TrainingData.find(workspace, brain), RunContext(progress=QUIET)
    truth = Truth(workspace, brain, data)
    regions = tuple(Region(n, m) for n, m in brain.rois().items() if m.sum() >= 10)
    halves = fit_halves(brain, data, regions, run)
    with h5py.File(workspace.root / "simulated" / STIMULI) as file:
        stimuli = file["imgBrick"][:]
    others = [i for i in range(len(stimuli)) if i not in truth.own]
    test = sorted(truth.own - truth.trained)
    found: dict[str, Any] = {}
    for label, rows in (("test images", test), ("photographs of the other subjects", others)):
        screen = Screen((RegionReader(brain, regions),), halves)
        values = screen.through(ImageSet.of(stimuli[rows]), run)
        masks = np.stack([region.mask / region.mask.sum() for region in regions])
        true = truth.true[rows] @ masks.T
        found[label] = {
            "images": len(rows),
            **estimates(regions, halves, values, true),
            "contrasts": contrasts(regions, halves, values, true),
        }
        if label == "test images":  # the others lack what no image feature explains
            reader = screen.readers[0]
            error = np.abs(values["mean"][:, 0] - true)
            for name, covariance in {
                "by the model alone": values["covariance"],
                "widened": widened(reader, values["covariance"], halves.unexplained),
            }.items():
                sem = np.sqrt(np.diagonal(covariance[:, 0], axis1=1, axis2=2))
                inside = (error <= NORMAL * sem).mean(0)
                found[label][f"coverage of 95 % intervals, {name}"] = {
                    "all": float(inside.mean()),
                    "least region": float(inside.min()),
                    "most region": float(inside.max()),
                }
    return found


def estimates(
    regions: tuple[Region, ...], halves: Halves, values: Values, true: np.ndarray
) -> dict[str, Any]:
    """Slope of the true mean of sets on every estimate of it, and the error that is left."""
    mean, candidates = values["mean"][:, 0], values["halves"]
    truth: list[float] = []
    by_name: dict[str, list[float]] = {}
    for r in range(len(regions)):
        guard = halves.guard(np.eye(len(regions))[r], candidates)
        for sign in (1, -1):
            for size in SIZES:
                chosen = np.argsort(-sign * mean[:, r])[:size]
                own = deviation(mean[:, r], chosen)
                told = said = 0.0
                for k in (0, 1):
                    theirs = np.argsort(-sign * candidates[:, k, r])[:size]
                    said += deviation(candidates[:, k, r], theirs)
                    told += deviation(candidates[:, 1 - k, r], theirs)
                ratio = told / said
                for name, value in {
                    "own": own,
                    "independent": own * guard.share,
                    "recorded": own * guard.slope,
                    "halves": own * ratio,
                    "halves, corrected": own * ratio * guard.slope / guard.agreement_training,
                }.items():
                    by_name.setdefault(name, []).append(value)
                truth.append(deviation(true[:, r], chosen))
    spread = float(np.sqrt(np.mean(np.square(truth))))
    return {
        "sets": len(truth),
        "slope": {name: slope(value, truth) for name, value in by_name.items()},
        "relative error": {
            name: float(np.sqrt(np.mean(np.square(np.subtract(value, truth))))) / spread
            for name, value in by_name.items()
        },
    }


def contrasts(
    regions: tuple[Region, ...], halves: Halves, values: Values, true: np.ndarray, size: int = 20
) -> dict[str, Any]:
    """Share of pairs of areas whose chosen set has the sign of its effect under the truth.

    Slopes are of effects in the unit of the score, SDs of the expected responses over the images.
    """
    mean = values["mean"][:, 0]
    z = (mean - mean.mean(0)) / mean.std(0)
    true_z = (true - true.mean(0)) / mean.std(0)
    index = {region.name: r for r, region in enumerate(regions)}
    areas = [name for name in AREAS if name in index]
    found: dict[str, Any] = {}
    for label, signs in {"+A:-B": (1, -1), "+A:+B": (1, 1), "-A:-B": (-1, -1)}.items():
        sums, both, own, independent, truth = [], [], [], [], []
        for a, b in permutations(areas, 2):
            pair = [index[a], index[b]]
            score = z[:, pair] @ np.array(signs)
            chosen = np.argsort(-score)[:size]
            effects = true_z[chosen][:, pair].mean(0) * signs
            sums.append(effects.sum() > 0)
            both.append((effects > 0).all())
            own.append(float(score[chosen].mean()))
            weights = np.zeros(len(regions))
            weights[pair] = np.array(signs) / mean.std(0)[pair]
            independent.append(own[-1] * halves.guard(weights, values["halves"]).share)
            truth.append(float(effects.sum()))
        found[label] = {
            "pairs": len(sums),
            "sign of the effect kept": float(np.mean(sums)),
            "signs of both areas kept": float(np.mean(both)),
            "slope": {"own": slope(own, truth), "independent": slope(independent, truth)},
        }
    return found


# ------------------------------------------------------------------------------ recorded responses


def recorded(workspace: Workspace, dataset: str, images: Path, n_folds: int) -> dict[str, Any]:
    """Rank held-out images for every unit, and look the first up in what was recorded."""
    from synbrain_cli.evaluation.resplit import deal_images, resplit
    from synbrain_cli.metrics.accuracy import average_repeats
    from synbrain_cli.pipeline.train import TrainSettings, train

    subject = workspace.find_subject(None, dataset, QUIET.info)
    store = workspace.find_tokens(dataset, None, QUIET.info)
    run = RunContext(progress=QUIET)
    files = {path.stem: path for path in images.iterdir()}
    gains, ratios, ranks, truth = [], [], [], []
    by_name: dict[str, list[float]] = {"own": [], "independent": []}
    folds = deal_images(subject, store, n_folds, run.seed)
    for k, (part, held_out) in enumerate(
        zip(resplit(subject, folds, run.seed), folds, strict=True)
    ):
        settings = TrainSettings(model="linear")
        made = train(workspace, part, store, settings, run, name=f"fold-{k}", overwrite=True)
        brain, names = load_model(made.folder, "cpu"), sorted(held_out)
        regions = tuple(
            Region(f"voxel:{v}", row) for v, row in enumerate(np.eye(brain.n_voxels) > 0)
        )
        halves = fit_halves(brain, TrainingData(part, store), regions, run)
        screen = Screen((RegionReader(brain, regions),), halves)
        values = screen.through(ImageSet.of([files[Path(name).stem] for name in names]), run)
        test = part.select("test")
        averages = average_repeats(part.recorded(test), test.image_index)[0]
        assert test.images.tolist() == names
        mean, n = values["mean"][:, 0], len(names) // 10
        order = np.argsort(-mean, axis=0)
        for v in range(brain.n_voxels):
            guard = halves.guard(np.eye(brain.n_voxels)[v], values["halves"])
            for chosen in (order[:n, v], order[-n:, v]):
                own = deviation(mean[:, v], chosen) / averages[:, v].std()
                by_name["own"].append(own)
                by_name["independent"].append(own * guard.share)
                truth.append(deviation(averages[:, v], chosen) / averages[:, v].std())
        level = averages.mean(0)
        top = np.take_along_axis(averages, order[:n], 0).mean(0)
        gains.append((top - level) / averages.std(0))
        ratios.append(top / level)
        ranks.append([spearmanr(m, a).statistic for m, a in zip(mean.T, averages.T, strict=True)])
        print(f"fold {k + 1}: rank correlation {np.median(ranks[-1]):.3f}", file=sys.stderr)
    gain, ratio, rank = (np.mean(values, axis=0) for values in (gains, ratios, ranks))
    return {
        "units": len(gain),
        "images": len(subject.trials["image"].unique()),
        "units whose top decile is above their mean": int((gain > 0).sum()),
        "top decile, SDs above the mean": quartiles(gain),
        "top decile over the mean": quartiles(ratio),
        "rank correlation": quartiles(rank),
        "slope of recorded sets on estimates": {n: slope(v, truth) for n, v in by_name.items()},
    }


def quartiles(values: np.ndarray) -> dict[str, float]:
    """Median over units, and quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": middle, "lower quartile": low, "upper quartile": high}


# ------------------------------------------------------------------------------------------- cost


def cost(model: Path, numbers: list[int]) -> dict[str, Any]:
    """Run the command on more and more images, and measure the encoder alone."""
    from many_images import PROGRAM, make_images
    from real_size import run as run_command

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="selection-") as scratch:
        root = Path(scratch)
        images = root / "images"
        make_images(images, max(numbers))
        pictures = ImageSet.of(images)
        brain = load_model(model, "cpu")
        some = [pictures[row] for row in range(min(50, len(pictures)))]
        brain.encoder(some[:1])
        start = os.times()
        for one in some:
            brain.encoder([one])
        spent = os.times()
        encoder = (spent.user + spent.system - start.user - start.system) / len(some)
        for n_images in numbers:
            own = root / f"first-{n_images}"
            own.mkdir()
            for path in sorted(images.iterdir())[:n_images]:
                os.link(path, own / path.name)
            region = next(iter(brain.rois()), "voxel:0")
            words = ["select", str(own), "--drive", region, "--model", str(model)]
            words += ["--device", "cpu", "--workspace", str(root), "--output", str(root / "out")]
            measured = run_command([*PROGRAM, *words], 1)
            found[str(n_images)] = measured
            print(f"{n_images} images: {measured}", file=sys.stderr)
    few, many = found[str(min(numbers))], found[str(max(numbers))]
    growth = many["processor_seconds"] - few["processor_seconds"]
    an_image = growth / max(max(numbers) - min(numbers), 1)
    return {
        "processor seconds an image": an_image,
        "of these in the encoder": encoder,
        "encoder's share": encoder / an_image if an_image else None,
        "images": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("simulated")
    one.add_argument("workspace", type=Path)
    one.add_argument("model", help="a name in weights/")
    two = kinds.add_parser("recorded")
    two.add_argument("workspace", type=Path)
    two.add_argument("dataset")
    two.add_argument("images", type=Path, help="folder of the images that were shown")
    two.add_argument("--folds", type=int, default=5)
    three = kinds.add_parser("cost")
    three.add_argument("model", type=Path, help="folder of a model")
    three.add_argument("--images", default="200,1000,10000")
    arguments = parser.parse_args()
    if arguments.kind == "simulated":
        name = f"selection_simulated_{arguments.model}"
        result = simulated(Workspace(arguments.workspace), arguments.model)
    elif arguments.kind == "recorded":
        name = f"selection_{arguments.dataset}"
        workspace = Workspace(arguments.workspace)
        result = recorded(workspace, arguments.dataset, arguments.images, arguments.folds)
    else:
        name = "selection_cost"
        result = cost(arguments.model.resolve(), list(map(int, arguments.images.split(","))))
    print(save(name, as_typed(), result))


if __name__ == "__main__":
    main()
