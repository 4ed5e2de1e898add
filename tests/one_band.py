"""Tokens under a single band, as what takes the tokens of several expects them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from synbrain_cli.io.token_store import BandStore, TokenStore
from synbrain_cli.model.tokens import BandScaler, StandardBand, StandardTokens, TokenScaler


def one_scaler(store: np.ndarray, rows: np.ndarray | None = None) -> TokenScaler:
    """Standardisation over images of an array (n_stored, n_tokens, n_dims)."""
    return TokenScaler((BandScaler.fit(store, rows),))


def plain_scaler(n_tokens: int, n_dims: int) -> TokenScaler:
    """Tokens as they are."""
    return TokenScaler((BandScaler.none(n_tokens, n_dims),))


def standard(
    store: np.ndarray, rows: np.ndarray | None = None, scaler: TokenScaler | None = None
) -> StandardTokens:
    """Images of an array (n_stored, n_tokens, n_dims); not standardised without a scaler."""
    rows = np.arange(len(store)) if rows is None else rows
    scaler = scaler or plain_scaler(*store.shape[1:])
    return StandardTokens((StandardBand(store, rows, scaler.bands[0]),))


def renamed(store: TokenStore) -> TokenStore:
    """The same tokens, said to be of other encoders."""
    others = []
    for one in store.stores:
        other = BandStore(one.folder)
        identity = one.band.identity | {"name": "another"}
        vars(other)["band"] = msgspec.structs.replace(one.band, identity=identity)
        others.append(other)
    return TokenStore(tuple(others))


def one_store(folder: Path) -> TokenStore:
    """The tokens in a folder."""
    return TokenStore((BandStore(folder),))
