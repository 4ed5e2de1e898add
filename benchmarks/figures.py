"""What figures cost: a flatmap, many of them, and a report.

Of responses that were synthesized in a workspace, the demo's by default: the first flatmap of a
process (after the program and the model are loaded), the ones that follow, as PNG files of 200 dpi;
peak memory after 20 and 60 of them, which should be the same; and the whole report, as a ratio to
one flatmap.

    python benchmarks/figures.py [WORKSPACE]
"""

from __future__ import annotations

import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from common import Timer, measured, report, save

from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.report import report as write_report
from synbrain_cli.plotting.figure import save_figure
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import response_maps
from synbrain_cli.plotting.sources.responses import Responses, latest_responses
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

FEW, MANY = 15, 40


def main(root: str = ".") -> None:
    found = {}
    for name, n in (("first", 1), ("few", FEW), ("many", MANY)):
        found[name] = measured(__file__, "flatmaps", str(n), root)
    found["report"] = measured(__file__, "report", "0", root)
    following = (found["many"]["seconds"] - found["few"]["seconds"]) / (MANY - FEW)
    result = {
        "first_flatmap_seconds": found["first"]["seconds"],
        "following_flatmap_seconds": following,
        "report_seconds": found["report"]["seconds"],
        "report_over_following_flatmap": found["report"]["seconds"] / following,
        "peak_megabytes": {name: one["peak_megabytes"] for name, one in found.items()},
        f"peak_of_{MANY}_over_{FEW}": found["many"]["peak_megabytes"]
        / found["few"]["peak_megabytes"],
    }
    for name, value in result.items():
        print(f"{name:32} {value if isinstance(value, dict) else round(value, 2)}")
    print(save("figures", "python benchmarks/figures.py", result))


def step(name: str, n: str, root: str) -> None:
    workspace, quiet = Workspace(Path(root)), Progress(quiet=True)
    made = Responses(latest_responses(workspace, None, None, quiet.info))
    brain = made.brain(workspace, quiet.info)
    with tempfile.TemporaryDirectory() as folder:
        if name == "report":
            with Timer() as timer:
                file = Path(folder) / "r.html"
                write_report(
                    workspace, brain, responses=made, output=file, run=RunContext(progress=quiet)
                )
        else:
            with Timer() as timer:
                plot_map = MapPlotter(brain, "flatmap", Look(), quiet)
                maps = cycle(list(response_maps(made, brain, "mean")))
                for one in islice(maps, int(n)):
                    save_figure(plot_map(one), Path(folder) / "map.png")
    report(timer.seconds)


if __name__ == "__main__":
    step(*sys.argv[1:]) if len(sys.argv) > 2 else main(*sys.argv[1:])
