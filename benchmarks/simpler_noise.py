"""Distributions of single trials that were replaced, as rivals of those that replaced them."""

from __future__ import annotations

from dataclasses import fields

from synbrain_cli.model.readout import Readout


class DependsOnMean(Readout):
    """A distribution whose noise depends on the predicted response, and not on the rest of it."""

    depends_on_signal = False

    @classmethod
    def like(cls, readout: Readout) -> DependsOnMean:
        """Return the same distribution, but for what its noise depends on."""
        return cls(**{one.name: getattr(readout, one.name) for one in fields(readout)})
