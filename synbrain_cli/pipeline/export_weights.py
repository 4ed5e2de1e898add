"""`synbrain weights export`: a model for programs that load encoding models of others."""

from __future__ import annotations

import shutil
from pathlib import Path

from synbrain_cli.errors import InputError
from synbrain_cli.io.berg import CARD_FILE, BergCard, export_folder
from synbrain_cli.io.bundle import BundleConfig, read_config
from synbrain_cli.io.bundle_checks import find_faults
from synbrain_cli.io.files import copy_at_once, versions
from synbrain_cli.io.prepared_tables import read_voxels, roi_masks
from synbrain_cli.io.records import write_record
from synbrain_cli.io.workfolder import FILES, FolderKind, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.run import RunContext

EXPORT = FolderKind("an exported model")


def export_to_berg(
    workspace: Workspace,
    name: str,
    berg_dir: Path,
    *,
    overwrite: bool = False,
    run: RunContext | None = None,
) -> Path:
    """Write a model into a folder of the Brain Encoding Response Generator.

    What is written is a copy of the bundle, and a model card beside it. BERG knows it once
    `synbrain_cli.register_with_berg` was called.

    Parameters
    ----------
    workspace : Workspace
    name : str
        Of the model, or its path.
    berg_dir : path
        Is made where it does not exist.
    overwrite : bool
        Replace a model of that name that was exported before, and differs.
    run : RunContext, optional

    Returns
    -------
    Path
        The folder of the model.

    Raises
    ------
    MissingError
        No such model.
    InputError
        A file of the model is damaged; another model was exported under that name.
    """
    run = run or RunContext()
    bundle = workspace.find_model(name, None, run.progress.info)
    if faults := find_faults(bundle):
        raise InputError(f"{bundle} was not exported: {'; '.join(faults)}")
    config = read_config(bundle)
    target = export_folder(Path(berg_dir), config.dataset, bundle.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    recorded = {"model": bundle.name, "fingerprint": config.fingerprint, "versions": versions()}
    with work_folder(target, EXPORT, recorded, overwrite=overwrite, progress=run.progress) as work:
        if work.is_finished:
            run.progress.info(f"{target} is already there, of the same model")
            return target
        copy = work.partial / bundle.name
        shutil.rmtree(copy, ignore_errors=True)  # by an interrupted run
        copy_at_once(bundle.resolve(), copy)
        (copy / FILES).unlink(missing_ok=True)  # of the command that made it
        rois = list(roi_masks(read_voxels(bundle / "voxels.tsv")))
        write_record(work.partial / CARD_FILE, _card(bundle.name, config, rois))
        work.put_in_place()
    run.progress.info(f"wrote {target}")
    return target


def _card(name: str, config: BundleConfig, rois: list[str]) -> BergCard:
    """Describe a model in the fields of BERG's model cards."""
    unit, n_voxels = config.recorded_unit, "voxels of all, or of the ROI"
    simulated = "Simulated subject: no brain was measured. " if config.simulated else ""
    scores = config.training.validation
    example: int | str = int(config.subject) if config.subject.isdigit() else config.subject
    return BergCard(
        model_id=f"fmri-{config.dataset}-synbrain_{name}",
        subject=config.subject,
        bundle=name,
        rois=rois,
        modality="fMRI",
        training_dataset=config.dataset,
        species="Simulated" if config.simulated else "Human",
        stimuli="Images",
        model_type=f"synbrain: {' + '.join(config.predictors)} on {config.encoder}",
        creator=f"synbrain {versions()['synbrain']}",
        description=(
            f"{simulated}Expected responses of {config.label} to images, by the model {name} "
            f"(fingerprint {config.fingerprint}). They are the means of the model's response "
            f"distribution, in the unit of its data: {unit}. Loading it needs synbrain, and "
            "synbrain_cli.register_with_berg."
        ),
        input={
            "type": "numpy.ndarray",
            "shape": ["n_images", 3, "height", "width"],
            "description": "RGB images, which the model's encoder resizes.",
            "constraints": ["Whole numbers from 0 to 255."],
        },
        output={
            "type": "numpy.ndarray",
            "shape": ["n_images", "n_voxels"],
            "description": f"Expected responses ({unit}), float32.",
            "dimensions": [
                {"name": "n_images", "description": "Images, in the order given."},
                {"name": "n_voxels", "description": f"In the order of voxels.tsv: {n_voxels}."},
            ],
        },
        parameters={
            "subject": {
                "type": type(example).__name__,
                "required": False,
                "valid_values": [example],
                "example": example,
                "description": "The subject that the model is of.",
                "function": "get_encoding_model",
            },
            "selection": {
                "type": "dict",
                "required": False,
                "description": "Voxels whose responses are returned; default: all.",
                "function": "get_encoding_model",
                "properties": {
                    "roi": {
                        "type": "str",
                        "description": "Name of an ROI.",
                        "valid_values": rois,
                        **({"example": rois[0]} if rois else {}),
                    }
                },
            },
            "device": {
                "type": "str",
                "required": False,
                "valid_values": ["auto", "cpu", "cuda"],
                "default": "auto",
                "description": "Device on which images are encoded.",
                "function": "get_encoding_model",
            },
            "stimulus": {
                "type": "numpy.ndarray",
                "required": True,
                "example": "uint8 array of shape (100, 3, 224, 224)",
                "description": "Images.",
                "function": "encode",
            },
            "show_progress": {
                "type": "bool",
                "required": False,
                "default": True,
                "description": "Whether progress is shown.",
                "function": "encode",
            },
        },
        performance={
            "metrics": [
                {
                    "name": f"share of the variance of validation images explained by {predictor}",
                    "value": f"{score:.3f}",
                }
                for predictor, score in scores.items()
            ]
        },
        references=["BERG: https://github.com/gifale95/BERG"],
    )
