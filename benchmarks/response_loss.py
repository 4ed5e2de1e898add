"""What does decoding every k-th image alone cost the mapper, in held-out scores?

Trains the mapper of a model again, on the model's own BrainVAE, with each weight of the response
loss, each k and several seeds; scores its decoded output on the test images.

    python benchmarks/response_loss.py WORKSPACE sub-01
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from common import of_model, save
from msgspec.structs import replace

from synbrain_cli.brain import Brain
from synbrain_cli.brain.prediction import predict_deep
from synbrain_cli.config import PRESETS
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats, pooled_skill, voxelwise_correlation
from synbrain_cli.model.fit import fit
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import (
    Examples,
    SubjectExamples,
    load_examples,
    seen_by_networks,
    standard_tokens,
)
from synbrain_cli.training.networks import MapperTargets, Schedules, UntrainedNetworks, mapper_stage

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("model")
    parser.add_argument("--weights", default="20,1", help="of the response loss")
    parser.add_argument("--every", default="1,4")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    brain, subject, store = of_model(workspace, arguments.model)
    preset = PRESETS[brain.config.training.preset]
    joint = brain.networks.joint
    examples = seen_by_networks(load_examples(subject, store), joint)
    train_set = examples.train
    test = subject.select("test")
    recorded = average_repeats(brain.standardize(test.betas), test.image_index)[0]
    tokens = joint.all_of(standard_tokens(store, test.images, examples.scaler))
    baseline = train_set.averages.mean(0)

    brain.networks.vae.requires_grad_(False)
    targets = posterior_means(brain, train_set)
    scores = []
    print("weight  every  seed  correlation  skill  seconds")
    weights = [float(w) for w in arguments.weights.split(",")]
    intervals = [int(k) for k in arguments.every.split(",")]
    for weight, every, seed in product(weights, intervals, range(arguments.seeds)):
        loss = replace(preset.loss, response=weight, response_every=every)
        start = time.process_time()
        schedules = Schedules(preset.vae_stage, preset.mapper_stage, loss)
        mapper = train_mapper(brain, schedules, seed, examples, targets)
        seconds = time.process_time() - start
        predicted = predict_deep(brain.networks.vae, mapper, tokens, brain.n_voxels)
        r = float(np.median(voxelwise_correlation(recorded, predicted)))
        gain = float(pooled_skill(recorded, predicted, baseline))
        print(
            f"{weight:6g}  {every:5}  {seed:4}  {r:11.3f}  {gain:5.3f}  {seconds:7.0f}", flush=True
        )
        scores.append({"weight": weight, "every": every, "seed": seed})
        scores[-1] |= {"voxelwise_correlation": r, "skill": gain, "core_seconds": seconds}
    command = f"python benchmarks/response_loss.py WORKSPACE {arguments.model}"
    settings = {"preset": preset.name, "simulated": brain.simulated}
    settings |= {"stage": preset.mapper_stage.to_dict()}
    name = f"response_loss_{subject.dataset}_{arguments.model}"
    print(save(name, command, {"settings": settings, "scores": scores}))


@torch.inference_mode()
def posterior_means(brain: Brain, examples: Examples) -> MapperTargets:
    """The mapper's targets: averages over an image's trials."""
    parts = [brain.networks.vae.encode(part) for part in torch.from_numpy(examples.betas).split(64)]
    mean = torch.cat([part.mean for part in parts]).numpy()
    targets = average_repeats(mean.reshape(len(mean), -1), examples.image_index)[0]
    targets = targets.reshape(-1, *mean.shape[1:])
    variances = torch.cat([part.log_variance for part in parts]).exp()
    variance = float(targets.var(0, ddof=1).mean())
    return MapperTargets(targets, variance, variances.mean(0).sqrt().numpy())


def train_mapper(
    brain: Brain,
    schedules: Schedules,
    seed: int,
    examples: SubjectExamples,
    targets: MapperTargets,
) -> Mapper:
    """Stage 2 as in `synbrain train`, with another loss or seed."""
    mapper = Mapper(brain.networks.mapper.config, torch.Generator().manual_seed(seed + 1))
    networks = UntrainedNetworks(
        brain.networks.vae, mapper, list(mapper.parameters()), schedules, "", ""
    )
    run = RunContext(seed)
    stage = mapper_stage(networks, examples, targets, run)
    fit(stage, RunContext(seed))
    return mapper.requires_grad_(False)


if __name__ == "__main__":
    main()
