"""How good is a model with networks of any experiment's responses? Cross-validation over images.

Every image is tested once: for each fold, the table is prepared with that fold's images as test
images, a model is trained and evaluated as the commands do, and the scores are averaged. Of linear
models, `synbrain evaluate --folds 5` pools the predictions of all images instead.

    python benchmarks/folds.py trials.tsv responses.npy images WORKSPACE [--model full]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from common import save
from sklearn.model_selection import KFold

from synbrain_cli.brain import load_model
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.io.files import atomic
from synbrain_cli.io.results.evaluation import DrawScore, NoiseCorrelationScore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.calibration import line_agreement
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

DATASET = "folds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=Path)
    parser.add_argument("responses", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--model", default="linear", help="linear, or full with the networks")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    workspace, progress = Workspace(arguments.workspace), Progress(quiet=True)
    table = pd.read_csv(arguments.trials, sep="\t", dtype={"image": str}, keep_default_na=False)
    shown = np.unique(table["image"])
    deal = KFold(arguments.folds, shuffle=True, random_state=arguments.seed)
    results = []
    for fold, (_, test) in enumerate(deal.split(shown), start=1):
        name = f"{fold:02d}_{arguments.model}"
        table["split"] = np.where(table["image"].isin(shown[test]), "test", "train")
        with atomic(workspace.root / f"fold-{fold}.tsv") as path:
            table.to_csv(path, sep="\t", index=False)
        experiment = Experiment(
            trials=(workspace.root / f"fold-{fold}.tsv",),
            images=arguments.images,
            responses=(arguments.responses,),
        )
        run = RunContext(arguments.seed, progress=progress)
        prepared = prepare_table(
            Target(workspace, DATASET, ("gabor",)), experiment, f"{fold:02d}", run
        )
        store = workspace.find_tokens(DATASET, ["gabor"], progress.info)
        subject = prepared.subjects[0]
        made = train(
            workspace,
            subject,
            store,
            TrainSettings(model=arguments.model),
            run,
            name=name,
            overwrite=True,
        )
        brain = load_model(made.folder, "cpu")
        results.append(
            evaluate(
                workspace,
                brain,
                subject,
                store,
                EvaluateSettings(n_draws=arguments.draws),
                run=RunContext(progress=progress),
            )
        )
        r = results[-1].voxels["model"].median()
        print(f"fold {fold}: {len(test)} test images, median r {r:.3f}", flush=True)
    record = pooled(results)
    for key, value in record.items():
        print(f"{key:32}", "  ".join(f"{k} {v:.4f}" for k, v in value.items()))
    settings = {"model": arguments.model, "folds": arguments.folds, "draws": arguments.draws}
    command = (
        f"python benchmarks/folds.py TRIALS RESPONSES IMAGES WORKSPACE --model {arguments.model}"
    )
    print(save(f"folds_{arguments.model}", command, {"settings": settings, "scores": record}))


def pooled(results: list) -> dict[str, dict[str, float]]:
    """Scores averaged over folds; of single units first over folds, then the median over units."""
    record: dict[str, dict[str, float]] = {}
    names = [c for c in ("model", "deep", "linear", "ceiling") if c in results[0].voxels]
    units = {name: np.mean([r.voxels[name] for r in results], axis=0) for name in names}
    record["median voxelwise correlation"] = {k: float(np.median(v)) for k, v in units.items()}
    coverage = np.mean([r.voxels["coverage_90"] for r in results], axis=0)
    record["90 % coverage of units"] = {
        "least": float(coverage.min()),
        "median": float(np.median(coverage)),
        "most": float(coverage.max()),
    }
    for score, values in results[0].metrics.draws.items():
        if not isinstance(values, (DrawScore, NoiseCorrelationScore)):
            continue
        keys = [k for k, v in values.items() if isinstance(v, float)]
        record[score] = {
            k: float(np.mean([r.metrics.draws.get(score).get(k) for r in results])) for k in keys
        }
    drawn = np.sqrt(np.mean([r.voxels["ncsnr_of_draws"] ** 2 for r in results], axis=0))
    record["ncsnr of draws"] = line_agreement(drawn, results[0].voxels["ncsnr"].to_numpy(float))
    record["PIT histogram"] = {
        str(i): float(v)
        for i, v in enumerate(
            np.mean([r.metrics.draws.pit_histogram["model"] for r in results], axis=0)
        )
    }
    return record


if __name__ == "__main__":
    main()
