"""`synbrain weights`: models on disk, and the weights that others publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synbrain_cli.cli.completion import complete_dataset, complete_model
from synbrain_cli.cli.options import OverwriteOption, QuietOption, WorkspaceOption
from synbrain_cli.cli.running import interruptible, open_run, open_workspace
from synbrain_cli.cli.sections import PlainGroup
from synbrain_cli.cli.tables import cell, print_columns, print_files

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    help="List, verify, export, import and fetch models' weights.",
)


@app.command("list")
def weights_list(folder: WorkspaceOption = Path(), quiet: QuietOption = False) -> None:
    """List the models of the workspace: subject, encoder, origin, completeness, size.

    Example: synbrain weights list
    """
    from synbrain_cli.pipeline.weights import list_bundles

    workspace, progress = open_workspace(folder, quiet)
    table = list_bundles(workspace)
    rows: list[tuple[str, ...]] = [
        ("name", "subject", "encoder", "source", "files", "voxels", "MB")
    ]
    for row in table.to_dict("records"):
        words = [str(row[k] or "-") for k in ("name", "subject", "encoder", "source", "files")]
        rows.append((*words, cell(row["voxels"], 0), cell(row["megabytes"], 1)))
    print_columns(rows, n_left=5)
    progress.info("`synbrain weights verify` compares every file with its checksum")


@app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models: names in weights/, or paths; default: all.",
            autocompletion=complete_model,
        ),
    ] = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Compare every file of models with its checksum; exit 1, with a line for each fault.

    Also compared: config.json with the checksum of its own content, the fingerprint with the
    weights, the arrays with the shapes that config.json says. The card has no checksum.

    Example: synbrain weights verify sub-01
    """
    from synbrain_cli.pipeline.weights import verify

    workspace, progress = open_workspace(folder, quiet)
    found = verify(workspace, names)
    for name, faults in found.items():
        progress.info(f"{name}: {f'{len(faults)} at fault' if faults else 'whole'}")
        for fault in faults:
            print(fault)
    if any(found.values()):
        raise typer.Exit(1)


@app.command("card")
def weights_card(
    name: Annotated[
        str,
        typer.Argument(help="Model: a name in weights/, or a path.", autocompletion=complete_model),
    ],
    folder: WorkspaceOption = Path(),
) -> None:
    """Print a model's card: its data, scores and licence.

    Example: synbrain weights card sub-01
    """
    from synbrain_cli.pipeline.weights import read_card

    workspace, _ = open_workspace(folder, True)
    print(read_card(workspace, name), end="")


@app.command("export")
def weights_export(
    name: Annotated[
        str,
        typer.Argument(help="Model: a name in weights/, or a path.", autocompletion=complete_model),
    ],
    berg: Annotated[
        Path,
        typer.Option(
            help="Folder of the Brain Encoding Response Generator (BERG); made where there is none."
        ),
    ],
    overwrite: OverwriteOption = False,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Copy a model into a folder of BERG, whose own calls then load it and encode images with it.

    In Python, call synbrain_cli.register_with_berg(FOLDER) first.

    Example: synbrain weights export sub-01 --berg brain-encoding-response-generator
    """
    from synbrain_cli.pipeline.export_weights import export_to_berg

    workspace, run = open_run(folder, quiet)
    with interruptible():
        print(export_to_berg(workspace, name, berg, overwrite=overwrite, run=run))


@app.command("import")
def weights_import(
    brainvae: Annotated[Path, typer.Option(help="The authors' BrainVAE: last.pth.")],
    s2n: Annotated[
        Path, typer.Option(help="The authors' S2N mapper of the same subject: last.pt.")
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="The subject's nsdgeneral.nii.gz (func1pt8mm); default: that of the prepared "
            "subject."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model; default: such as sub-01_published.")
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject", "-s", help="Subject; default: found by the mask's number of voxels."
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(help="Dataset: a folder in prepared/.", autocompletion=complete_dataset),
    ] = "nsd",
    prepared: Annotated[
        Path | None,
        typer.Option(
            help="Prepared subject with the same mask, for transforms and ROIs; default: "
            "prepared/nsd/sub-01, if its mask is the same."
        ),
    ] = None,
    nsd: Annotated[
        Path | None,
        typer.Option(
            help="Copy of NSD for transforms and ROIs instead: nsddata/ is enough; default: nsd "
            "in the workspace."
        ),
    ] = None,
    voxels: Annotated[
        int | None, typer.Option(min=1, help="Number of voxels, if not that of nsdgeneral.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Image encoder; default: the published one, without its weights."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence under which the weights were published.")
    ] = None,
    overwrite: OverwriteOption = False,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Convert the checkpoints that SynBrain's authors publish; no code in them is executed.

    Example: synbrain weights import --brainvae last.pth --s2n last.pt --mask nsdgeneral.nii.gz
    """
    from synbrain_cli.pipeline.import_weights import ImportSettings, import_published

    workspace, run = open_run(folder, quiet)
    settings = ImportSettings(
        brainvae=brainvae,
        s2n=s2n,
        mask=mask,
        subject=subject,
        dataset=dataset,
        prepared=prepared,
        nsd=nsd,
        n_voxels=voxels,
        encoder=encoder,
        licence=licence,
    )
    with interruptible():
        result = import_published(workspace, settings, name=name, overwrite=overwrite, run=run)
    print(result.folder)


@app.command("fetch")
def weights_fetch(
    repository: Annotated[str, typer.Argument(help="OWNER/REPO on the Hugging Face hub.")],
    files: Annotated[list[str], typer.Argument(help="Names of files in it.")],
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit; default: the one fetched before, or main."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(envvar="HF_ENDPOINT", help="Address of the hub.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Output folder; default: checkpoints/OWNER/REPO."),
    ] = None,
    folder: WorkspaceOption = Path(),
    quiet: QuietOption = False,
) -> None:
    """Download files from the Hugging Face hub, and record their commit and checksums.

    Files that are there already are compared with their checksums, without the network.

    Example: synbrain weights fetch OWNER/REPO sub1/last.pth sub1/last.pt
    """
    from synbrain_cli.pipeline.fetch_weights import fetch

    workspace, run = open_run(folder, quiet)
    with interruptible():
        result = fetch(
            workspace,
            repository,
            files,
            revision=revision,
            output=output,
            endpoint=endpoint,
            run=run,
        )
    print_files(result.files)
