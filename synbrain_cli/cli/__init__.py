"""The command line: thin commands over `synbrain_cli.pipeline` and `synbrain_cli.evaluation`.

One module per group of commands; this one puts them together. Nothing heavy is imported outside
the commands: ``synbrain --help`` answers at once.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from synbrain_cli.cli import (
    contrast,
    demo,
    evaluate,
    localize,
    plot,
    prepare,
    select,
    synthesize,
    train,
    weights,
)
from synbrain_cli.cli.running import run
from synbrain_cli.cli.sections import ProgramGroup

app = typer.Typer(
    name="synbrain",
    cls=ProgramGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"synbrain {version('synbrain')}")
        raise typer.Exit


@app.callback()
def synbrain(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Draw single-trial fMRI responses of a subject's visual cortex to your images.

    Start with `synbrain demo`, which needs no data.
    """


app.command("demo")(demo.demo)
app.add_typer(prepare.app, name="prepare")
app.command("train")(train.train)
app.command("adapt")(train.adapt)
app.command("synthesize")(synthesize.synthesize)
app.command("submit")(synthesize.submit)
app.add_typer(plot.app, name="plot")
app.command("plot-flatmap", short_help="The same as `synbrain plot flatmap`.")(plot.plot_flatmap)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(evaluate.compare)
app.command("learning-curve")(evaluate.learning_curve)
app.command("augment")(evaluate.augment)
app.command("contrast")(contrast.contrast)
app.add_typer(localize.app, name="localize")
app.command("select")(select.select)
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Entry point of the program."""
    run(partial(app, standalone_mode=False))
