"""Examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import synbrain_cli

PACKAGE = Path(synbrain_cli.__file__).parent


def has_examples(path: Path) -> bool:
    """Whether any example can be run without a model."""
    lines = path.read_text("utf-8").splitlines()
    return any(">>> " in line and "+SKIP" not in line for line in lines)


MODULES = [
    ".".join(["synbrain_cli", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
        ".__init__"
    )
    for path in sorted(PACKAGE.rglob("*.py"))
    if has_examples(path)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed
