"""Write docs/api.md from the signatures and docstrings of what Python users call.

Run as ``.venv/bin/python docs/make_api.py`` after a change to one of them;
``tests/test_docs.py`` fails until that is done. To list another function or record, add its name
to `SECTIONS`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).with_name("api.md")
WIDTH = 88  # columns

HEAD = """# Python API

What Python users call. The commands are thin over the same functions. This page is generated from
signatures and docstrings: after a change, run `.venv/bin/python docs/make_api.py`.

Every array states its shape; axes are `n_images`, `n_repeats`, `n_trials`, `n_voxels`, `n_draws`.
Faults that a user can mend are `SynbrainError`s, which are also a `ValueError`, `TypeError`,
`FileNotFoundError` or `RuntimeError`. Words are explained in the [glossary](glossary.md), files in
[file-format.md](file-format.md).
"""


class Part(NamedTuple):
    """A section of the page.

    Attributes
    ----------
    title : str
    text : str
        Introduction, and an example.
    names : tuple of str
        What is listed, as ``module:name`` or ``module:Class.method``, below `synbrain_cli`.
    """

    title: str
    text: str
    names: tuple[str, ...]


SECTIONS = (
    Part(
        "A model",
        """`load_model` returns a `Brain`, which predicts mean responses, draws trials, and
resamples both to other spaces.

```python
from synbrain_cli import load_model

brain = load_model("weights/sub-01")
draws = brain.draw("examples/images", n_draws=8, seed=0)  # (n_images, n_draws, n_voxels)
mean = brain.mean("examples/images")  # (n_images, n_voxels)
linear = brain.predict("linear", "examples/images")  # one predictor of the stack alone
brain.to_nifti(draws[0]).to_filename("draws.nii.gz")
brain.to_surface(mean[0])["left"]  # (n_vertices,)
```""",
        (
            "brain:load_model",
            "brain:Brain",
            "brain:Brain.mean",
            "brain:Brain.draw",
            "brain:Brain.draw_sequence",
            "brain:Brain.estimate_drift",
            "brain:Brain.predict",
            "brain:Brain.rois",
            "brain:Brain.to_nifti",
            "brain:Brain.to_surface",
            "brain:Brain.to_mni",
            "brain.drawing:Drawing",
            "brain.drawing:ImageResponse",
            "brain:Brain.stream",
        ),
    ),
    Part(
        "The workspace, and what a run carries along",
        """Recipes take a `Workspace` and a `RunContext`.

```python
from pathlib import Path

from synbrain_cli.io.workspace import Workspace
from synbrain_cli.run import RunContext

workspace, run = Workspace(Path(".")), RunContext.create(seed=0)
subject = workspace.find_subject("1", "simulated", print)
store = workspace.find_tokens("simulated", ["gabor"], print)
```""",
        (
            "io.workspace:Workspace",
            "io.workspace:Workspace.find_subject",
            "io.workspace:Workspace.find_model",
            "io.workspace:Workspace.find_models",
            "io.workspace:Workspace.full_models",
            "io.workspace:Workspace.find_tokens",
            "run:RunContext",
            "run:RunContext.create",
            "progress:Progress",
            "io.prepared:PreparedSubject",
            "io.prepared:PreparedSubject.select",
            "io.prepared:PreparedSubject.recorded",
            "io.token_store:TokenStore",
        ),
    ),
    Part(
        "Preparing data",
        """```python
from synbrain_cli.bands import SIMULATED
from synbrain_cli.pipeline.prepare import prepare_simulated
from synbrain_cli.pipeline.preparing import Target

result = prepare_simulated(Target(workspace, "simulated", SIMULATED), run=run)
```""",
        (
            "pipeline.preparing:Target",
            "pipeline.prepare:prepare_nsd",
            "pipeline.prepare:prepare_nsd_synthetic",
            "pipeline.nsd_copy:NSDSource",
            "datasets.nsd_choice:Choice",
            "pipeline.prepare_laion:prepare_laion",
            "pipeline.prepare_laion:LaionSource",
            "datasets.laion:Choice",
            "pipeline.prepare_mosaic:prepare_mosaic",
            "pipeline.prepare_mosaic:MosaicSource",
            "datasets.mosaic:Choice",
            "datasets.mosaic_files:MosaicSet",
            "pipeline.prepare:prepare_table",
            "datasets.table_experiment:Experiment",
            "pipeline.prepare:prepare_glmsingle",
            "datasets.glmsingle:Fits",
            "io.token_files:TokenFile",
            "pipeline.prepare:prepare_algonauts",
            "datasets.algonauts:Choice",
            "pipeline.prepare:prepare_simulated",
            "pipeline.prepare:prepare_simulated_artificial",
            "datasets.simulated:SimulationConfig",
            "pipeline.preparing:PrepareResult",
        ),
    ),
    Part(
        "Training and adapting",
        """```python
from synbrain_cli.pipeline.adapt import AdaptSettings, adapt
from synbrain_cli.pipeline.train import TrainSettings, train

trained = train(workspace, subject, store, TrainSettings(preset="tiny"), run)
new = workspace.find_subject("3", "simulated", print)
adapted = adapt(workspace, new, store, AdaptSettings([trained.folder], hours=1), run)
```""",
        (
            "pipeline.train:train",
            "pipeline.train:TrainSettings",
            "pipeline.adapt:adapt",
            "pipeline.adapt:AdaptSettings",
            "training.bundle_writer:TrainResult",
            "pipeline.import_weights:import_published",
            "pipeline.import_weights:ImportSettings",
        ),
    ),
    Part(
        "Synthesizing responses",
        """```python
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.pipeline.synthesize import Output, synthesize

made = synthesize(
    workspace,
    workspace.weights / "sub-01",
    "examples/images",
    Drawing(n_draws=8),
    Output(spaces=("fsaverage", "MNI")),
    run,
)
```""",
        (
            "pipeline.synthesize:synthesize",
            "pipeline.submit:submit",
            "pipeline.synthesize:Output",
            "pipeline.synthesize:SynthesizeResult",
            "pipeline.synthesize_sequence:synthesize_sequence",
            "pipeline.synthesize_sequence:SequenceResult",
        ),
    ),
    Part(
        "Evaluating",
        """Four recipes, each with its settings and its result; the fields of the records are in
[file-format.md](file-format.md).

```python
from synbrain_cli.pipeline.compare import compare
from synbrain_cli.pipeline.evaluate import evaluate

result = evaluate(workspace, brain, subject, store, run=run)
result.metrics.overall.voxelwise_correlation.model
result.table()  # one row per score and region
compare(workspace, [brain], subject, store, run=run).table()
```""",
        (
            "pipeline.evaluate:evaluate",
            "evaluation.settings:EvaluateSettings",
            "pipeline.evaluate:EvaluateResult",
            "pipeline.evaluate:EvaluateResult.table",
            "pipeline.evaluate:EvaluateResult.draws_table",
            "pipeline.evaluate:EvaluateResult.paper_table",
            "pipeline.compare:compare",
            "pipeline.compare:CompareSettings",
            "pipeline.compare:CompareResult",
            "pipeline.compare:CompareResult.table",
            "pipeline.compare:CompareResult.roi_table",
            "pipeline.learning_curve:learning_curve",
            "evaluation.learning_curve:load_curve_subjects",
            "evaluation.learning_curve:CurveSubject",
            "pipeline.learning_curve:LearningCurveSettings",
            "pipeline.learning_curve:LearningCurveResult",
            "pipeline.learning_curve:LearningCurveResult.table",
            "pipeline.learning_curve:LearningCurveResult.fits",
            "pipeline.augment:augment",
            "pipeline.augment:AugmentSettings",
            "pipeline.augment:AugmentResult",
            "pipeline.augment:AugmentResult.table",
            "pipeline.layers:layers",
            "pipeline.layers:LayersResult",
            "pipeline.report:report",
        ),
    ),
    Part(
        "Experiments on a modelled brain",
        """```python
from synbrain_cli import contrast, fit_prf, load_model, power, select
from synbrain_cli.experiments.selection_aims import SelectionSettings

brain = load_model("weights/sub-01")
found = contrast(brain, "faces", "houses")
found.region_table  # effects with intervals, standard errors by source, controls
power(found).needed  # trials of each condition for 80 %
fields = fit_prf(brain)
fields.to_nifti()["angle"].to_filename("angle.nii.gz")
chosen = select(brain, "images", SelectionSettings(contrast="+V1:-hV4", top=20))
chosen.table  # one row per image, best first
```""",
        (
            "experiments.contrast:contrast",
            "experiments.contrast:ContrastSettings",
            "experiments.contrast:Contrast",
            "experiments.contrast:Contrast.to_nifti",
            "experiments.contrast:Contrast.plot",
            "experiments.power:power",
            "experiments.power:Experiment",
            "experiments.power:Power",
            "experiments.power:Power.to_nifti",
            "experiments.power:Power.plot",
            "experiments.categories:fit_categories",
            "experiments.categories:CategoryMaps",
            "experiments.categories:CategoryMaps.plot",
            "pipeline.contrast:contrast_conditions",
            "pipeline.localize:localize_categories",
            "experiments.retinotopy:fit_prf",
            "experiments.retinotopy:MappingSettings",
            "experiments.retinotopy:Retinotopy",
            "experiments.retinotopy:Retinotopy.to_nifti",
            "experiments.retinotopy:Retinotopy.to_surface",
            "experiments.retinotopy:Retinotopy.plot",
            "experiments.population_fields:PopulationFields",
            "pipeline.localize:localize_prf",
            "experiments.selection:select",
            "experiments.selection_aims:SelectionSettings",
            "experiments.selection:Selection",
            "experiments.selection:Selection.own_estimate",
            "experiments.selection:Selection.independent_estimate",
            "experiments.selection:Selection.plot",
            "experiments.selection_guard:TrainingData",
            "experiments.selection_guard:TrainingData.find",
            "experiments.selection_guard:Guard",
            "pipeline.select:select_images",
        ),
    ),
    Part(
        "Plotting",
        """Functions that take arrays and return matplotlib figures.

```python
from synbrain_cli.plotting import plot_flatmap, save_figure, subject_labels

maps = brain.to_surface(brain.mean("examples/images/coffee.png")[0])
figure = plot_flatmap(maps, subject_labels(brain, "coffee"))
save_figure(figure, "coffee.svg")
```""",
        tuple(
            f"plotting:{name}"
            for name in (
                "plot_flatmap",
                "plot_surface",
                "view_surface",
                "plot_with_pycortex",
                "plot_slices",
                "plot_draws",
                "plot_sheet",
                "plot_rois",
                "roi_means",
                "plot_accuracy",
                "plot_calibration",
                "Labels",
                "subject_labels",
                "ColourScale",
                "figure_style",
                "save_figure",
            )
        ),
    ),
)


def listed() -> Iterator[tuple[str, Any]]:
    """Name as it stands in its heading, and the object, of everything on the page."""
    for part in SECTIONS:
        for name in part.names:
            yield name, find(name)


def find(name: str) -> Any:
    """Return the object of ``module:name`` or ``module:Class.method``."""
    module, _, path = name.partition(":")
    found = import_module(f"synbrain_cli.{module}")
    for attribute in path.split("."):
        found = getattr(found, attribute)
    return found


def signature(name: str, thing: Any) -> str:
    """Return the call, as it is written: one line, or one line per parameter."""
    title = name.partition(":")[2]
    if inspect.isclass(thing) and not _is_record(thing):
        return title
    try:
        parameters = list(inspect.signature(thing).parameters.values())
    except ValueError:
        return title
    parts: list[str] = []
    for parameter in parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(_written(parameter))
    returned = "" if inspect.isclass(thing) else _returned(thing)
    line = f"{title}({', '.join(parts)}){returned}"
    if len(line) <= WIDTH:
        return line
    body = "".join(f"    {part},\n" for part in parts)
    return f"{title}(\n{body}){returned}"


def _is_record(thing: Any) -> bool:
    return dataclasses.is_dataclass(thing) or hasattr(thing, "__struct_fields__")


def _written(parameter: inspect.Parameter) -> str:
    text = parameter.name
    if parameter.annotation is not inspect.Parameter.empty:
        text += f": {_type(parameter.annotation)}"
    if parameter.default is not inspect.Parameter.empty:
        text += f" = {_default(parameter.default)}"
    return text


def _default(value: Any) -> str:
    """A default as text that is the same on every machine."""
    if type(value).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        return "…"
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, (str, int, float, bool, tuple, type(None))):
        return repr(value)
    return "…"


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)


def _returned(thing: Any) -> str:
    annotation = getattr(thing, "__annotations__", {}).get("return")
    return "" if annotation in (None, "None") else f" -> {_type(annotation)}"


def entry(name: str, thing: Any) -> str:
    """Return heading, module, signature and docstring."""
    module, _, title = name.partition(":")
    if isinstance(thing, property):
        raise TypeError(f"{name}: list the class, whose docstring has its properties")
    docstring = inspect.getdoc(thing) or ""
    call = "" if signature(name, thing) == title else f"{signature(name, thing)}\n\n"
    body = textwrap.indent(docstring, "    ", lambda line: bool(line.strip()))
    return f"### {title}\n\n`synbrain_cli.{module}`\n\n```text\n{call}{body}\n```\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for part in SECTIONS:
        parts.append(f"## {part.title}\n\n{part.text}\n")
        parts += [entry(name, find(name)) for name in part.names]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE}\n")
