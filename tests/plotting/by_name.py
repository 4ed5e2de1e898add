"""Figure functions whose options tests give by name, sorted here into the records they take."""

from __future__ import annotations

from dataclasses import fields

from synbrain_cli.plotting.colours import ColourScale
from synbrain_cli.plotting.labels import Labels


def labelled(plot):
    """A function with the fields of `Labels` as keywords, in place of the record."""

    def plot_by_name(*given, **options):
        labels = Labels(**_taken(options, Labels))
        return plot(*given, labels=labels, **options)

    return plot_by_name


def coloured(plot):
    """A function with the fields of `Labels` and `ColourScale` as keywords."""

    def plot_by_name(maps, **options):
        labels, scale = (kind(**_taken(options, kind)) for kind in (Labels, ColourScale))
        return plot(maps, labels, scale, **options)

    return plot_by_name


def _taken(options, kind):
    return {one.name: options.pop(one.name) for one in fields(kind) if one.name in options}
