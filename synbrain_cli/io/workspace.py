"""The folders of a workspace, and the choice of subjects, models and tokens in it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.bundle import (
    BundleConfig,
    find_bundles,
    read_config,
    readable_bundles,
)
from synbrain_cli.io.prepared import PreparedSubject, find_prepared
from synbrain_cli.io.token_store import TokenStore, find_stores
from synbrain_cli.labels import dataset_name, derived_name, subject_label
from synbrain_cli.paths import is_there

Log = Callable[[str], None]


@dataclass(frozen=True)
class Workspace:
    """A folder with ``prepared/``, ``weights/`` and ``outputs/``."""

    root: Path

    @property
    def prepared(self) -> Path:
        """Folder of prepared subjects."""
        return self.root / "prepared"

    @property
    def weights(self) -> Path:
        """Folder of bundles."""
        return self.root / "weights"

    @property
    def outputs(self) -> Path:
        """Folder of responses, scores, figures."""
        return self.root / "outputs"

    def output_of(self, name: str, what: str) -> Path:
        """Path in ``outputs/`` for a result of a model or subject: ``NAME_WHAT``."""
        return self.outputs / f"{derived_name(name)}_{what}"

    def find_subject(
        self, subject: str | None, dataset: str | None, log: Log, among: list[Any] | None = None
    ) -> PreparedSubject:
        """Choose a prepared subject; log which where the options leave several.

        Parameters
        ----------
        subject, dataset : str, optional
        log : callable
            Takes messages.
        among : list of PreparedSubject, optional
            Candidates; default: all.

        Raises
        ------
        MissingError
            When there is none; the message lists what there is.
        """
        every = find_prepared(self.prepared)
        found = every if among is None else among
        listing = ", ".join(p.label for p in every) or "nothing"
        if dataset is not None:
            found = [p for p in found if p.dataset == dataset]
        if subject is not None:
            found = [p for p in found if p.subject == subject_label(subject)]
        if not found:
            asked = f"sub-{subject_label(subject)}" if subject is not None else "subject"
            raise MissingError(
                f"{self.prepared}: no prepared {asked}{f' of {dataset}' if dataset else ''}; "
                f"prepared: {listing}. `synbrain prepare` makes them (`synbrain prepare simulated` "
                "needs no data)"
            )
        if len(found) > 1:
            names = ", ".join(p.label for p in found)
            log(f"subject: {found[0].label} (of {names}; --subject)")
        return found[0]

    def find_model(self, model: str | None, subject: str | None, log: Log) -> Path:
        """Choose a model bundle, by name or path, by subject, or the first; log which.

        Parameters
        ----------
        model : str, optional
            Name in ``weights/``, or path.
        subject : str, optional
            Label; not used where a model is named.
        log : callable
            Takes messages.

        Raises
        ------
        MissingError
            When there is none; the message lists what there is.
        """
        found = find_bundles(self.weights)
        if model is not None:
            # Names are looked up and not joined to the folder: "../x" is a path from here.
            named = [path for path in found if path.name == unicodedata.normalize("NFC", model)]
            for path in (*named, Path(model)):
                if is_there(path / "config.json"):
                    return path.resolve() if path.name in ("", "..") else path
            listing = ", ".join(path.name for path in found) or "none"
            raise MissingError(f"no model {model}; in {self.weights}: {listing}")
        faults: list[str] = []
        readable = list(readable_bundles(self.weights, faults.append))
        found = [path for path, _ in readable]
        because = f"; {faults[0]}" if faults else ""
        if subject is not None:
            label = subject_label(subject)
            subjects = [f"{path.name} (sub-{config.subject})" for path, config in readable]
            listing = ", ".join(subjects) or "none"
            found = [path for path, config in readable if config.subject == label]
            if not found:
                raise MissingError(
                    f"{self.weights}: no model of sub-{label}; models: {listing}. "
                    f"Make one with `synbrain train --subject {label}`, or from an hour of "
                    f"its data with `synbrain adapt --subject {label}`{because}"
                )
        if not found:
            raise MissingError(
                f"{self.weights}: no model yet: `synbrain train` makes one from a prepared "
                f"subject, `synbrain demo` from nothing{because}"
            )
        for fault in faults:
            log(fault)
        if len(found) > 1:
            log(f"model: {found[0].name} (of {', '.join(p.name for p in found)}; --model)")
        else:
            log(f"model: {found[0].name}")
        return found[0]

    def find_models(self, models: str | None, subject: str | None, log: Log) -> list[Path]:
        """Several bundles: those named, separated by commas, or all of a subject.

        Of a subject, models of some hours come first, by hours, and those of all data last.

        Parameters
        ----------
        models : str, optional
            Names, separated by commas.
        subject : str, optional
            Label; default that of the first model. Not used where models are named.
        log : callable
            Takes messages: of models that cannot be read.

        Raises
        ------
        InputError, MissingError
            When no name is given, or one is of no model.
        """
        if models is not None:
            names = [one.strip() for one in models.split(",") if one.strip()]
            if not names:
                raise InputError("expected names of models, separated by commas; found none")
            return [self.find_model(name, None, lambda text: None) for name in names]
        first = self.find_model(None, subject, lambda text: None)
        label = read_config(first).label
        found = []
        for path, config in readable_bundles(self.weights, log):
            if config.label == label:
                hours = config.training.hours or float("inf")
                linear = not config.has_networks and hours == float("inf")
                found.append(((hours, not linear, path.name), path))
        return [path for _, path in sorted(found)]

    def full_models(
        self, models: str | None, log: Log, but: tuple[str, str] | None = None
    ) -> list[tuple[Path, BundleConfig]]:
        """Find bundles trained on all data of a subject, one per subject, and their configurations.

        Of several bundles of one subject, one with networks is preferred; all have the encoder of
        the first.

        Parameters
        ----------
        models : str, optional
            Names, separated by commas, taken as they are; default all there are.
        log : callable
            Takes messages: of models that cannot be read.
        but : (dataset, subject), optional
            Subject whose models are left out where none were named.

        Raises
        ------
        MissingError
            When there is none.
        """
        if models is not None:
            paths = self.find_models(models, None, log)
            return [(path, read_config(path)) for path in paths]
        chosen: dict[tuple[str, str], tuple[Path, BundleConfig]] = {}
        encoder = None
        for path, config in readable_bundles(self.weights, log):
            subject = (config.dataset, config.subject)
            if config.training.hours is not None or subject == but:
                continue
            encoder = encoder or config.encoder.identity
            if config.encoder.identity != encoder:
                continue
            if subject not in chosen or (
                config.has_networks and not chosen[subject][1].has_networks
            ):
                chosen[subject] = (path, config)
        if not chosen:
            others = f" of another subject than sub-{but[1]}" if but else ""
            raise MissingError(
                f"{self.weights}: no trained model{others} to start from: `synbrain train` makes "
                "one"
            )
        return list(chosen.values())

    def find_tokens(self, dataset: str, encoder: str | None, log: Log) -> TokenStore:
        """Choose the tokens of a dataset, by encoder, or the first; log which of several.

        Parameters
        ----------
        dataset : str
        encoder : str, optional
            As ``--encoder`` takes it.
        log : callable
            Takes messages.

        Raises
        ------
        MissingError
            When there are none; the message lists what there is.
        """
        folder = self.prepared / dataset_name(dataset)
        faults: list[str] = []
        stores = list(_readable_stores(folder, faults.append))
        because = f"; {faults[0]}" if faults else ""
        names = ", ".join(s.identity.spec for s in stores) or "none"
        if encoder is not None:
            stores = [s for s in stores if s.identity.spec == encoder]
        if not stores:
            raise MissingError(
                f"{folder}: no image tokens"
                f"{f' of {encoder}' if encoder else ''} (there are: {names}): run `synbrain "
                f"prepare` with --encoder {encoder or 'gabor'}{because}"
            )
        for fault in faults:
            log(fault)
        if len(stores) > 1:
            log(f"encoder: {stores[0].identity.spec} (of {names}; --encoder)")
        return stores[0]


def _readable_stores(dataset: Path, log: Log) -> Iterator[TokenStore]:
    """Token stores of a dataset, sorted; one whose encoder cannot be read is passed over."""
    for store in find_stores(dataset):
        try:
            _ = store.identity
        except SynbrainError as error:
            log(f"passed over: {error}")
        else:
            yield store
