"""How much of what classifiers tell do test images tell of each other? On a simulated subject.

Test images of the simulation are views of few photographs, and a model errs alike on views of one
photograph. `synbrain evaluate --two-sample` judges each image by classifiers that saw others, among
them other views. Here photographs are dealt, exchanged and resampled as a whole, too.

    python benchmarks/photographs.py WORKSPACE [--models sub-01,sub-02]

WORKSPACE is that of `synbrain demo`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from common import as_typed, of_model, save
from simulated_truth import SimulatedTruth

from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.evaluation.two_sample import tell_apart
from synbrain_cli.groups import Groups
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext


@dataclass(frozen=True, eq=False)
class ByPhotograph(TestSet):
    """A test set of a simulated subject, whose views of a photograph are a group.

    Attributes
    ----------
    root : path
        Workspace of `synbrain demo`.
    """

    root: Path = Path()

    @classmethod
    def of(cls, test: TestSet, root: Path) -> ByPhotograph:
        """Group the images of a test set."""
        return cls(**{field.name: getattr(test, field.name) for field in fields(test)}, root=root)

    @cached_property
    def groups(self) -> Groups:
        """Photograph of each image."""
        return SimulatedTruth(self.root, self.subject).photographs(self.images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--models", default="sub-01,sub-02")
    arguments = parser.parse_args()
    workspace, run = Workspace(arguments.workspace), RunContext(progress=Progress(quiet=True))
    settings = EvaluateSettings(latent=False)
    found: dict[str, object] = {}
    for model in arguments.models.split(","):
        brain, subject, store = of_model(workspace, model)
        test = TestSet.load(subject, store, [brain])
        predictions = Predictions.of(brain, test, run)
        whole = ByPhotograph.of(test, workspace.root)
        for name, own in (("images", test), ("photographs", whole)):
            scores = tell_apart(brain, own, predictions, settings, run).scores
            rows = {"trials": scores.trials, "pairs": scores.pairs, "best": scores.best}
            found[f"{model}, {name} dealt whole"] = {
                "units": len(np.unique(own.groups)) if own.groups is not None else own.n_images,
                **{kind: msgspec.to_builtins(values) for kind, values in rows.items()},
            }
            print(model, name, scores.best, flush=True)
    print(save("two_sample_photographs", as_typed(), found))


if __name__ == "__main__":
    main()
