"""Section of the report on the bands of the linear encoder: which predicts each voxel best."""

from __future__ import annotations

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.plotting.labels import plotted_rois
from synbrain_cli.plotting.layers import layers_map
from synbrain_cli.plotting.report.map_pictures import MapPictures
from synbrain_cli.plotting.report.page import Block, Section, Table, Text
from synbrain_cli.plotting.sources.layers import ALL, Layers, layers_table
from synbrain_cli.progress import Progress

_TITLE = "Bands of the linear encoder"


def layers_section(workspace: Workspace, brain: Brain, pictures: MapPictures) -> Section:
    """Return which band wins each voxel, as a map and by region.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    pictures : MapPictures
        Which voxels maps show, and whether there are any.

    Returns
    -------
    Section
        Without blocks for models without a linear encoder, or with a single band.
    """
    if not brain.config.has_readout or len(brain.config.bands) < 2:
        return Section(_TITLE, "", [])
    try:
        layers = Layers.of(workspace, brain, Progress(quiet=True))
    except (MissingError, InputError) as error:
        text = f"Not shown, because image tokens are not available here. {error}"
        return Section(_TITLE, "", [Text(text)])
    table = layers_table(brain, layers, pictures.reliability.voxels)
    table = table[table["region"].isin((ALL, *plotted_rois(brain)))]
    rows = []
    for (region, n_voxels), own in table.groupby(["region", "n_voxels"], sort=False):
        cells = zip(own["fraction_won"], own["mean_share"], strict=True)
        shown = [f"{won:.2f} ({share:.2f})" if n_voxels else "–" for won, share in cells]
        rows.append([f"{region} ({n_voxels:,})", *shown])
    blocks: list[Block] = []
    if not pictures.why_none:
        caption = (
            "Each voxel has the colour of the band that contributes most; layers of one encoder "
            "are light to dark. Weights alone do not tell, as they depend on the scale of what "
            "they weigh."
        )
        blocks.append(pictures.picture(layers_map(brain, layers), caption))
    blocks.append(
        Table(
            "Fraction of voxels that each band wins, and its mean share of contributions",
            ["region (voxels)", *layers.bands],
            rows,
            "In brackets: the contribution divided by the sum over bands, mean over voxels.",
        )
    )
    return Section(_TITLE, layers.definition, blocks)
