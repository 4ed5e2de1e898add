"""Which encoders does the linear encoder need? It is fitted to all bands, and without each encoder.

    python benchmarks/bands.py WORKSPACE DATASET [--subject 1] [--folds 5]

Ridges and receptive fields of every band are those of `benchmarks/ladder.py`; what differs is which
of them are stacked. Scores, folds and paired intervals are the ladder's, differences those to all
bands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import save
from ladder import Fit, Ladder, choose_reliable, describe, paired

from synbrain_cli.bands import group_bands
from synbrain_cli.evaluation.resplit import deal_images, resplit
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.model.fields import is_grid

ALL = "all"


def fit_without_each(ladder: Ladder) -> dict[str, Fit]:
    """Stacks of all bands, without each encoder's, and of each encoder's alone."""
    ladder.one_band()
    ladder.receptive_fields()
    bands = ladder.store.bands
    members = [*enumerate(ladder.ridges)]
    grids = [k for k, band in enumerate(bands) if is_grid(band.token_shape[0])]
    members += zip(grids, ladder.fields, strict=True)
    fits = {ALL: ladder._stack([fit for _, fit in members])}
    for encoder, layers in group_bands([band.spec for band in bands]):
        own = {f"{encoder}@{layer}" for layer in layers} or {encoder}
        with_it = [fit for k, fit in members if bands[k].spec in own]
        without = [fit for k, fit in members if bands[k].spec not in own]
        fits[f"{encoder} alone"] = ladder._stack(with_it)
        if without:
            fits[f"without {encoder}"] = ladder._stack(without)
    return fits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--subject", default="1")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace)
    store = workspace.find_tokens(arguments.dataset, None, print)
    subject = workspace.find_subject(arguments.subject, arguments.dataset, print)
    folds = deal_images(subject, store, arguments.folds, arguments.seed)
    fits, recorded = [], []
    for one in resplit(subject, folds, arguments.seed):
        ladder = Ladder(workspace, [(one, store)], 0, arguments.seed)
        fits.append(fit_without_each(ladder))
        recorded.append(ladder.test.averages)
        print(f"fold {len(fits)} of {arguments.folds}", flush=True)
    chosen = choose_reliable(ladder.test.ncsnr)
    stacks = paired(fits, recorded, ALL, chosen, Bootstrap(1000, arguments.seed))
    for name, row in stacks.items():
        print(describe(name, row, ALL))
    command = (
        f"python benchmarks/bands.py WORKSPACE {arguments.dataset} --subject {arguments.subject}"
    )
    settings = {"folds": arguments.folds, "seed": arguments.seed, "bands": store.spec}
    record = {"settings": settings, "subject": subject.label, "stacks": stacks}
    print(save(f"bands_{arguments.dataset}", command, record))


if __name__ == "__main__":
    main()
