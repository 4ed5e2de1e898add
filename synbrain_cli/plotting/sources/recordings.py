"""Recorded trials of a subject's test images, and a model's draws of the same images."""

from __future__ import annotations

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.brain.matching import check_match
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.errors import MissingError, SynbrainError
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workspace import Log, Workspace


class Recordings:
    """Recorded trials of a subject's test images, and a model's responses to the same images.

    Parameters
    ----------
    workspace : Workspace
    brain : Brain
    subject : PreparedSubject
    store : TokenStore
        Tokens of the model's encoder.

    Attributes
    ----------
    names : list of str
        Test images, those with the most repeats first.

    Raises
    ------
    InputError
        When model, subject and tokens do not belong together.
    """

    def __init__(
        self, workspace: Workspace, brain: Brain, subject: PreparedSubject, store: TokenStore
    ) -> None:
        check_match(brain, subject, store)
        self._workspace, self.brain = workspace, brain
        self._subject, self._store = subject, store
        self._test = subject.select("test")
        self._betas = subject.recorded(self._test)
        counts = np.bincount(self._test.image_index)
        # Ordered by repeats alone: any other choice of images could flatter the model
        self.names: list[str] = self._test.images[np.argsort(-counts, kind="stable")].tolist()

    @classmethod
    def of(cls, workspace: Workspace, brain: Brain, log: Log) -> Recordings:
        """Open the recordings of the subject of a model, where it is prepared in the workspace.

        Raises
        ------
        MissingError, InputError
            When subject or tokens are not in the workspace, or do not belong to the model.
        """
        config = brain.config
        subject = workspace.find_subject(config.subject, config.dataset, log)
        bands = [band.spec for band in config.bands]
        store = workspace.find_tokens(config.dataset, bands, log)
        return cls(workspace, brain, subject, store)

    def choose(self, image: str | None, n: int) -> list[str]:
        """Return the images named, separated by commas, or the first ``n``.

        Raises
        ------
        MissingError
            When a name is not that of a test image.
        """
        if image is None:
            return self.names[:n]
        chosen = [name.strip() for name in image.split(",") if name.strip()]
        known = set(self.names)
        missing = [name for name in chosen if name not in known]
        if missing or not chosen:
            raise MissingError(
                f"{self._subject.folder}: no test image {', '.join(missing) or 'is named'}; there "
                f"are {len(self.names):,}, such as {', '.join(self.names[:3])}"
            )
        return chosen

    def recorded(self, name: str) -> np.ndarray:
        """Return recorded trials in the recorded unit: float32 (n_trials, n_voxels)."""
        return self._betas[self._test.images[self._test.image_index] == name]

    def draws(self, name: str, n_draws: int, seed: int, signal: str = "shared") -> np.ndarray:
        """Return calibrated draws in the recorded unit: float32 (n_draws, n_voxels)."""
        tokens = self._store.take([name])
        return self.brain.draw(tokens, n_draws=n_draws, seed=seed, signal=signal)[0]

    def expected(self, name: str) -> np.ndarray:
        """Return the mean response by the model: float32 (n_voxels,)."""
        return self.brain.mean(self._store.take([name]))[0]

    def stimulus(self, name: str) -> np.ndarray | None:
        """Return the stimulus, uint8 (height, width, 3), of simulated subjects alone.

        Images of recorded datasets may not be redistributed.
        """
        root = self._workspace.root / "simulated"
        if not (self._subject.simulated and root.is_dir()):
            return None
        try:
            return next(iter(NSD(root).read_images([name])))
        except SynbrainError:  # simulated elsewhere
            return None
