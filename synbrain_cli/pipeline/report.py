"""`synbrain plot report`: everything about a model in one HTML file."""

from __future__ import annotations

from pathlib import Path

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.alignment_record import read_alignment
from synbrain_cli.io.files import atomic, versions
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.paths import require_output_file
from synbrain_cli.plotting.reliability import Reliability
from synbrain_cli.plotting.report.contrasts import contrasts_section
from synbrain_cli.plotting.report.key_numbers import key_numbers
from synbrain_cli.plotting.report.layers import layers_section
from synbrain_cli.plotting.report.map_pictures import MapPictures
from synbrain_cli.plotting.report.model import (
    adaptation_section,
    provenance_section,
    settings_section,
)
from synbrain_cli.plotting.report.other_datasets import other_sections
from synbrain_cli.plotting.report.page import KeyNumbers, Page, Section, render
from synbrain_cli.plotting.report.preparations import preparations_section
from synbrain_cli.plotting.report.recordings import recordings_section
from synbrain_cli.plotting.report.responses import responses_section
from synbrain_cli.plotting.report.scores import (
    accuracy_section,
    calibration_section,
    not_evaluated_section,
)
from synbrain_cli.plotting.sources.evaluation import Evaluation, OtherTrainingError
from synbrain_cli.plotting.sources.responses import Responses, latest_responses
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext


def report(
    workspace: Workspace,
    brain: Brain,
    *,
    responses: Responses | None = None,
    evaluation: Path | None = None,
    output: Path | None = None,
    min_ncsnr: float | None = None,
    run: RunContext | None = None,
) -> Path:
    """Write the report of a model: settings, responses, contrasts, recordings, test scores.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    responses : Responses, optional
        Default the model's last ones, where there are any.
    evaluation : path, optional
        Folder written by evaluate; default ``outputs/<model>_evaluation``, where there is one.
    output : path, optional
        File; default ``outputs/<model>_report.html``.
    min_ncsnr : float, optional
        Maps leave voxels with a lower ncsnr grey; default none.
    run : RunContext, optional

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When the responses or the evaluation are another model's; when the output is no file; when
        no voxel has an ncsnr of ``min_ncsnr`` or more.
    """
    run = run or RunContext()
    file = workspace.output_of(brain.name, "report.html")
    if output is not None:
        file = require_output_file(output)
    responses = responses or _latest(workspace, brain, run.progress)
    if responses and not responses.is_by(brain):
        raise InputError(f"{responses.folder}: was not drawn by {brain.folder}")
    evaluated, why_not = _evaluation(workspace, brain, evaluation)
    adaptation = brain.config.training.adaptation
    reliability = Reliability.of(brain, min_ncsnr)
    pictures = MapPictures(brain, reliability, run.progress)
    sections = [settings_section(brain, responses, reliability, _alignment(workspace, brain))]
    with run.progress.bar("report", 5) as bar:
        if responses:
            sections.append(responses_section(brain, responses, pictures))
        bar()
        sections.append(contrasts_section(workspace, brain, pictures))
        sections.append(recordings_section(workspace, brain, pictures))
        bar()
        if adaptation is not None:
            sections.append(adaptation_section(brain, adaptation, workspace))
        bar()
        if evaluated is not None:
            sections.append(accuracy_section(brain, evaluated, pictures))
            sections.append(calibration_section(evaluated))
        else:
            sections.append(not_evaluated_section(brain, why_not))
        sections.append(preparations_section(workspace, brain))
        sections += other_sections(workspace, brain, evaluated)
        sections.append(layers_section(workspace, brain, pictures))
        bar()
        sections.append(provenance_section(brain, responses, evaluated))
        bar()
    with atomic(file) as temporary:
        numbers = key_numbers(evaluated.metrics) if evaluated else None
        temporary.write_text(render(_page(brain, sections, numbers)), encoding="utf-8")
    return file


def _page(brain: Brain, sections: list[Section], numbers: KeyNumbers | None) -> Page:
    warning = (
        "Simulated subject: the responses this model was trained and tested on are made up; no "
        "number here is a finding about a brain."
    )
    return Page(
        title=f"{brain.name}: responses of sub-{brain.subject}'s visual cortex",
        lead="Responses of this subject's visual cortex to images, as a model expects them, with "
        f"{brain.config.rows} drawn from the distribution that the recorded ones follow.",
        warning=warning if brain.simulated else None,
        sections=[section for section in sections if section.blocks],
        footer=f"synbrain {versions()['synbrain']} · model {brain.config.fingerprint}",
        key_numbers=numbers,
    )


def _alignment(workspace: Workspace, brain: Brain) -> str:
    """What the alignment check found of the data that the model was trained on."""
    config, label = brain.config, f"sub-{brain.config.subject}"
    subject = PreparedSubject(workspace.prepared / config.dataset / label)
    try:
        is_own = subject.checksum == config.training.data
    except SynbrainError:
        is_own = False
    if not is_own:
        return "not known: the prepared data of this training are not in this workspace"
    record = read_alignment(subject)
    if record is None:
        return "not made (synbrain train makes it, unless --no-check was given)"
    stopped = record.status in ("differs", "no signal")
    text = f"FAILED, and passed over with --no-check: {record.text}" if stopped else record.text
    return "; ".join([text, *record.notes])


def _latest(workspace: Workspace, brain: Brain, progress: Progress) -> Responses | None:
    """The model's last responses; None where there are none, or it was trained again since."""
    try:
        made = Responses(latest_responses(workspace, brain.name, None, progress.info))
    except MissingError:
        return None
    return made if made.is_by(brain) else None


def _evaluation(
    workspace: Workspace, brain: Brain, folder: Path | None
) -> tuple[Evaluation | None, str]:
    """The evaluation, or why there is none."""
    if folder is not None:
        return Evaluation.read(folder, brain), ""
    try:
        return Evaluation.of(workspace, brain), ""
    except MissingError:
        return None, "This model has not been evaluated on test images."
    except OtherTrainingError:
        return None, "The last evaluation is of another training of this model, and is not shown."
