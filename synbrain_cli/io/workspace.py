"""The folders of a workspace, and the choice of subjects, models and tokens in it."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synbrain_cli.bands import DEFAULT, band_spec, group_bands, join_bands, split_layers
from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.bundle import (
    CONFIG,
    BundleConfig,
    find_bundles,
    read_config,
    readable_bundles,
)
from synbrain_cli.io.prepared import PreparedSubject, find_prepared
from synbrain_cli.io.token_store import BandStore, TokenStore, find_stores
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
        if dataset is not None:
            found = [p for p in found if p.dataset == dataset]
        if subject is not None:
            found = [p for p in found if p.subject == subject_label(subject)]
        if not found:
            asked = f"sub-{subject_label(subject)}" if subject is not None else "subject"
            raise MissingError(
                f"{self.prepared}: no prepared {asked}{f' of {dataset}' if dataset else ''}; "
                f"{_what_is_prepared(every)}"
            )
        if len(found) > 1:
            names = ", ".join(p.label for p in found)
            log(f"subject: {found[0].label} (of {names}; --subject)")
        return found[0]

    def find_model(
        self, model: str | None, subject: str | None, log: Log, dataset: str | None = None
    ) -> Path:
        """Choose a model bundle, by name or path, or the newest of a subject or dataset; log which.

        The newest is the one written last: after `synbrain adapt` that of the new subject.

        Parameters
        ----------
        model : str, optional
            Name in ``weights/``, or path.
        subject : str, optional
            Label.
        log : callable
            Takes messages.
        dataset : str, optional

        Raises
        ------
        MissingError
            When there is none; the message lists what there is.
        InputError
            When the model named is of another subject or dataset.
        """
        if model is not None:
            path = self._named_model(model)
            _require_model_of(path, subject, dataset)
            return path
        faults: list[str] = []
        readable = list(readable_bundles(self.weights, faults.append))
        found = [path for path, config in readable if _is_of(config, subject, dataset)]
        because = f"; {faults[0]}" if faults else ""
        if not readable:
            raise MissingError(
                f"{self.weights}: no model yet: `synbrain train` makes one from a prepared "
                f"subject, `synbrain demo` from nothing{because}"
            )
        if not found:
            listing = ", ".join(f"{path.name} ({config.label})" for path, config in readable)
            raise MissingError(
                f"{self.weights}: no model of {_described(subject, dataset)}; models: {listing}. "
                f"{self._how_to_model(subject, dataset)}{because}"
            )
        for fault in faults:
            log(fault)
        newest = max(found, key=_written)
        others = ", ".join(path.name for path in found)
        log(f"model: {newest.name}" + (f" (the newest of {others}; --model)" if found[1:] else ""))
        return newest

    def _named_model(self, model: str) -> Path:
        """Bundle of that name in ``weights/``, or at that path."""
        found = find_bundles(self.weights)
        # Names are looked up and not joined to the folder: "../x" is a path from here.
        named = [path for path in found if path.name == unicodedata.normalize("NFC", model)]
        for path in (*named, Path(model)):
            if is_there(path / CONFIG):
                return path.resolve() if path.name in ("", "..") else path
        listing = ", ".join(path.name for path in found) or "none"
        raise MissingError(f"no model {model}; in {self.weights}: {listing}")

    def _how_to_model(self, subject: str | None, dataset: str | None) -> str:
        """Say what makes a model of a subject that has none, as far as it is prepared."""
        every = find_prepared(self.prepared)
        asked = [one for one in every if _is_of(one, subject, dataset)]
        if not asked:
            return f"Nor is it prepared; {_what_is_prepared(every)}"
        chosen = f"--subject {asked[0].subject}"
        if dataset is not None:
            chosen += f" --dataset {shlex.quote(dataset)}"
        return (
            f"Make one with `synbrain train {chosen}`, or from an hour of its data with `synbrain "
            f"adapt {chosen}`"
        )

    def find_models(
        self, models: str | None, subject: str | None, log: Log, dataset: str | None = None
    ) -> list[Path]:
        """Several bundles: those named, separated by commas, or all of a subject.

        Of a subject, models of some hours come first, by hours, and those of all data last.

        Parameters
        ----------
        models : str, optional
            Names, separated by commas.
        subject : str, optional
            Label; default that of the newest model.
        log : callable
            Takes messages: of models that cannot be read.
        dataset : str, optional

        Raises
        ------
        InputError, MissingError
            When no name is given, or one is of no model.
        """
        if models is not None:
            names = [one.strip() for one in models.split(",") if one.strip()]
            if not names:
                raise InputError("expected names of models, separated by commas; found none")
            return [self.find_model(name, subject, lambda text: None, dataset) for name in names]
        first = self.find_model(None, subject, lambda text: None, dataset)
        label = read_config(first).label
        found = []
        for path, config in readable_bundles(self.weights, log):
            if config.label == label:
                hours = config.training.hours or float("inf")
                linear = config.is_linear and hours == float("inf")
                found.append(((hours, not linear, path.name), path))
        return [path for _, path in sorted(found)]

    def full_models(
        self,
        models: str | None,
        log: Log,
        but: tuple[str, str] | None = None,
        dataset: str | None = None,
    ) -> list[tuple[Path, BundleConfig]]:
        """Find bundles trained on all data of a subject, one per subject, and their configurations.

        Of several bundles of one subject, one with networks is preferred; all have the encoder of
        the first. Where there are models of the dataset, those of others are left out.

        Parameters
        ----------
        models : str, optional
            Names, separated by commas, taken as they are; default all there are.
        log : callable
            Takes messages: of models that cannot be read.
        but : (dataset, subject), optional
            Subject whose models are left out where none were named.
        dataset : str, optional
            Preferred where no models were named; default that of the newest model.

        Raises
        ------
        MissingError
            When there is none.
        """
        if models is not None:
            paths = self.find_models(models, None, log)
            return [(path, read_config(path)) for path in paths]
        found = [
            (path, config)
            for path, config in readable_bundles(self.weights, log)
            if config.training.hours is None and (config.dataset, config.subject) != but
        ]
        if dataset is None and found:
            dataset = max(found, key=lambda one: _written(one[0]))[1].dataset
        own = [(path, config) for path, config in found if config.dataset == dataset]
        chosen: dict[tuple[str, str], tuple[Path, BundleConfig]] = {}
        bands = None
        for path, config in own or found:
            subject = (config.dataset, config.subject)
            identities = [band.identity for band in config.bands]
            bands = bands or identities
            if identities != bands:
                continue
            if subject not in chosen or (
                len(config.predictors) > len(chosen[subject][1].predictors)
            ):
                chosen[subject] = (path, config)
        if not chosen:
            others = f" of another subject than sub-{but[1]}" if but else ""
            raise MissingError(
                f"{self.weights}: no trained model{others} to start from: `synbrain train` makes "
                "one"
            )
        return list(chosen.values())

    def find_tokens(self, dataset: str, encoder: Sequence[str] | None, log: Log) -> TokenStore:
        """Choose the tokens of a dataset: those of the bands that are named, or of all.

        Parameters
        ----------
        dataset : str
        encoder : sequence of str, optional
            As ``--encoder`` takes it; without layers, all layers of that encoder.
        log : callable
            Takes messages.

        Raises
        ------
        MissingError
            When there are none; the message lists what there is.
        """
        folder = self.prepared / dataset_name(dataset)
        faults: list[str] = []
        stores = sorted(_readable_stores(folder, faults.append), key=_usual_order)
        because = f"; {faults[0]}" if faults else ""
        there = ", ".join(store.band.spec for store in stores) or "none"
        chosen = stores if encoder is None else []
        for spec in encoder or ():
            name, layers = split_layers(spec)
            wanted = {band_spec(name, layer) for layer in layers or (None,)}
            own = [store for store in stores if store.band.spec in wanted] or [
                store for store in stores if not layers and split_layers(store.band.spec)[0] == name
            ]
            chosen += own
            if len(own) < len(wanted):
                chosen = []
                break
        if not chosen:
            asked = " ".join(f"--encoder {spec}" for spec in encoder or ())
            raise MissingError(
                f"{folder}: no image tokens"
                f"{f' of {join_bands(encoder)}' if encoder else ''} (there are: {there}): run "
                f"`synbrain prepare`{f' with {asked}' if asked else ''}{because}"
            )
        for fault in faults:
            log(fault)
        found = TokenStore(tuple(chosen))
        if encoder is None and len(chosen) > 1:
            log(f"image tokens: {found.spec} (--encoder chooses)")
        return found


def _usual_order(store: BandStore) -> tuple[int, str, tuple[int, ...]]:
    """Place of a band among others: those of the default encoder in its order, then by name."""
    encoder, layers = split_layers(store.band.spec)
    usual = [name for name, _ in group_bands(DEFAULT)]
    return usual.index(encoder) if encoder in usual else len(usual), encoder, layers


def _written(bundle: Path) -> int:
    """When a bundle was written."""
    return (bundle / CONFIG).stat().st_mtime_ns


def _is_of(one: BundleConfig | PreparedSubject, subject: str | None, dataset: str | None) -> bool:
    """Whether a bundle or a prepared subject is of the subject and dataset that are named."""
    return (subject is None or one.subject == subject_label(subject)) and (
        dataset is None or one.dataset == dataset
    )


def _what_is_prepared(subjects: list[PreparedSubject]) -> str:
    """List prepared subjects, and say what to do where the one asked for is not among them."""
    if not subjects:
        return (
            "prepared: nothing. `synbrain prepare` makes them (`synbrain prepare simulated` needs "
            "no data)"
        )
    listing = ", ".join(one.label for one in subjects)
    return f"prepared: {listing}. Name one of these, or prepare it with `synbrain prepare`"


def _described(subject: str | None, dataset: str | None) -> str:
    """What was asked for: "sub-09", "sub-09 of nsd", "dataset nsd"."""
    if subject is None:
        return f"dataset {dataset}"
    return f"sub-{subject_label(subject)}" + (f" of {dataset}" if dataset else "")


def _require_model_of(path: Path, subject: str | None, dataset: str | None) -> None:
    """Refuse a model that was named beside another subject or dataset than its own."""
    if (subject, dataset) == (None, None):
        return
    config = read_config(path)
    if not _is_of(config, subject, dataset):
        raise InputError(
            f"--model {path.name} is of {config.label}, not of {_described(subject, dataset)}: "
            "leave out --model, or --subject and --dataset"
        )


def _readable_stores(dataset: Path, log: Log) -> Iterator[BandStore]:
    """Stores of a dataset, one per band; one whose band cannot be read is passed over."""
    for store in find_stores(dataset):
        try:
            _ = store.band
        except SynbrainError as error:
            log(f"passed over: {error}")
        else:
            yield store
