"""What the Makefile removes."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_clean_demo_removes_what_an_interrupted_demo_left_and_nothing_else(tmp_path):
    """A model that was begun on data made before would not be continued on data made anew."""
    made = [
        "simulated/a",
        "prepared/b",
        "outputs/c",
        "weights/sub-01/d",
        "weights/.sub-02.partial/e",
        "weights/.sub-02.recovery/e",
        "weights/.sub-02.lock",
    ]
    kept = ["weights/README.md", "weights/imported/f", "examples/images/g"]
    for name in made + kept:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["make", "-f", MAKEFILE, "clean-demo"], cwd=tmp_path, check=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
