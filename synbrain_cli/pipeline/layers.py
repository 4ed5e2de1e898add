"""`synbrain plot layers`: which band of the linear encoder predicts each voxel best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from synbrain_cli.io.files import atomic
from synbrain_cli.io.workfolder import note_derived
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.plot import PlotResult, Selection
from synbrain_cli.plotting.figure import figure_style, save_figure
from synbrain_cli.plotting.labels import plotted_rois, simulated_note
from synbrain_cli.plotting.layers import layers_map, plot_layers
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.reliability import Reliability
from synbrain_cli.plotting.sources.layers import ALL, Layers, layers_table
from synbrain_cli.run import RunContext

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayersResult(PlotResult):
    """Files written, and the table of regions.

    Attributes
    ----------
    table : DataFrame
        As `synbrain_cli.plotting.sources.layers.layers_table` returns it.
    definition : str
        What a contribution is.
    """

    table: pd.DataFrame
    definition: str


def layers(
    workspace: Workspace,
    selection: Selection,
    *,
    look: Look | None = None,
    output: Path | None = None,
    run: RunContext | None = None,
) -> LayersResult:
    """Plot which band of the linear encoder predicts each voxel best, on cortex and by region.

    The contribution of a band to a voxel is the standard deviation, over the subject's test images,
    of the sum of weight × prediction over the band's members (ridge and receptive fields) in the
    stack of the linear encoder; the best band has the largest one. Only the images' tokens are
    needed. Voxels that the linear encoder does not predict are grey.

    Parameters are those of `synbrain_cli.pipeline.plot.accuracy`. Beside the figures lies the table
    of regions, as TSV.

    Raises
    ------
    InputError, MissingError
        When the model has no linear encoder or a single band, or subject or tokens are not in the
        workspace.
    """
    look, run = look or Look(), run or RunContext()
    brain = selection.find_model(workspace, run.progress)
    found = Layers.of(workspace, brain, run.progress)
    reliability = Reliability.of(brain, look.min_ncsnr)
    default = workspace.output_of(brain.name, "figures")
    folder = Path(output) if output else default
    shown = reliability.map(layers_map(brain, found))
    table = layers_table(brain, found, reliability.voxels)
    files = []
    with figure_style(look.style):
        where = brain.voxel_space
        if where.surface_resampling or where.is_volume:
            plot_map = MapPlotter(brain, "flatmap", look, run.progress)
            files.append(folder / f"{shown.name}_{plot_map.kind}.{look.format}")
            save_figure(plot_map(shown), files[-1], dpi=look.dpi)
        else:
            run.progress.info(f"{brain.name}: the position of its voxels is not known: no map")
        files.append(folder / f"{shown.name}_rois.{look.format}")
        plotted = table[table["region"].isin((ALL, *plotted_rois(brain)))]
        figure = plot_layers(
            plotted, shown.unit, title=f"{shown.title}: regions", note=simulated_note(brain)
        )
        save_figure(figure, files[-1], dpi=look.dpi)
    files.append(folder / f"{shown.name}_rois.tsv")
    with atomic(files[-1]) as temporary:
        table.to_csv(temporary, sep="\t", index=False, float_format="%.4f", encoding="utf-8")
    for file in files:
        note_derived(default.parent, file)
    return LayersResult(files, plotted, found.definition)
