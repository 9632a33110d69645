"""Every command and its options. What takes long to import is imported inside the command that needs it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from rushlight.cli.values import chosen, takes

STARTED = time.perf_counter()  # near enough to the start of the process: Python itself takes about 20 ms before

app = typer.Typer(
    name="rushlight",
    help="Train, test, save and use PyTorch networks. Start with: [bold]rushlight train[/bold]",
    epilog="Add --traceback to any command to see where in the code an error came from.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds all runs.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help='A run: its folder, its name or a part of it, or "latest".')
]
AS_JSON = "One JSON object on standard output; all else on standard error."
AsJson = Annotated[bool, typer.Option("--json", help=AS_JSON)]
AsJsonOfRun = Annotated[bool, typer.Option("--json", help=AS_JSON, rich_help_panel="Run")]


def version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        import rushlight

        typer.echo(f"rushlight {rushlight.__version__}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train, test, save and use PyTorch networks."""


@app.command(
    epilog="Examples: rushlight train · rushlight train cnn cifar10 --epochs 10 · rushlight train net.py:Net photos/"
)
@takes("train")
def train(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="mlp, cnn, resnet, linear, or your own: file.py:Class or package.module:Class."
        ),
    ] = "mlp",
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A name (see: rushlight data), a folder of images, a CSV or Parquet file, .npz, idx files.",
        ),
    ] = "fashion-mnist",
    *,
    as_json: AsJsonOfRun = False,
    **options: Any,
) -> None:
    """Train MODEL on DATA and test it after every epoch.

    Everything goes into one folder under --runs: the recipe, every step's loss, checkpoints, the report and the
    trained model. Ctrl-C saves; [bold]rushlight resume[/bold] goes on.
    """
    import rushlight

    show_end(rushlight.train(model, data, **chosen(options), to_stderr=as_json), as_json, bool(options["quiet"]))


@app.command()
@takes("resume")
def resume(run: RunName = "latest", *, as_json: AsJsonOfRun = False, **options: Any) -> None:
    """Go on with an interrupted run from its newest checkpoint; it ends with the bits of one that was never stopped."""
    import rushlight

    show_end(rushlight.resume(run, **chosen(options), to_stderr=as_json), as_json, bool(options["quiet"]))


def show_end(run: Any, as_json: bool, quiet: bool) -> None:
    """Print how a training ended: as JSON, or as a report with what to do next."""
    from rushlight.console import print_json, print_report, print_summary

    summary = run.summary()
    wall = time.perf_counter() - STARTED
    if as_json:
        with contextlib.suppress(BrokenPipeError):  # all is done, whether or not anybody reads it
            print_json({**summary, "wall_seconds": wall})
        return
    if quiet:
        return
    if run.report is not None:
        print_report(run.report.to_json(), drops=True)
    typed = f'"{run.folder}"' if " " in str(run.folder) else str(run.folder)  # as into a shell
    name = "latest" if run.folder.parent == Path("runs") else typed
    print_summary(folder=run.folder, seconds=wall, test=summary["test"], run=name)


@app.command()
def test(
    run: RunName = "latest",
    data: Annotated[str | None, typer.Option(help="Test on other data than the run's own test split.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Test a run's model and print the report."""
    import rushlight
    from rushlight.console import print_json, print_report

    report = rushlight.open_run(run, runs=runs).test(data).to_json()
    if as_json:
        print_json(report)
    else:
        print_report(report)


@app.command()
def predict(
    run: RunName,
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Images, a CSV or Parquet table, or .npy arrays.")
    ],
    top: Annotated[int, typer.Option(help="How many classes to show for each.")] = 3,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Predict from files with the model of a run or of a bundle's folder: class names and probabilities, or values."""
    from rushlight.cli.predictions import print_predictions

    print_predictions(run, runs, inputs, top, as_json)


@app.command()
def save(
    run: RunName,
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="model.pth (plain PyTorch), model.safetensors, or a folder (the bundle)."),
    ],
    runs: Runs = Path("runs"),
) -> None:
    """Save a run's model where you want it.

    A .pth file is a plain state_dict: model.load_state_dict(torch.load("model.pth")) reads it anywhere. A folder holds
    the weights with everything needed to use them: preprocessing, class names, examples.
    """
    import rushlight

    typer.echo(f"Saved {rushlight.open_run(run, runs=runs).save(path)}")


@app.command(
    epilog="Examples: rushlight runs · rushlight runs latest · rushlight runs --verify · "
    "rushlight runs --delete 20261123-0331-mlp-digits-k7"
)
def runs(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help='This one: its folder, its name or a part of it, or "latest".')
    ] = None,
    runs: Runs = Path("runs"),
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compute every checksum again and say what is whole, what is damaged and what that means. Changes nothing.",
        ),
    ] = False,
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Delete RUN, given by its whole name or path, with all its files; asks first."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --delete: do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """List all runs, or show one with its curve; verify them, or delete one.

    --verify without RUN checks all runs. Its exit code is 0 when everything is
    whole, and 1 when something is damaged or missing.
    """
    from rushlight.cli import listing
    from rushlight.errors import UsageError

    if verify and delete:
        raise UsageError("verify-and-delete")
    if delete:
        listing.delete(runs, run, yes, as_json)
    elif verify:
        if not listing.verify(runs, run, as_json):
            raise typer.Exit(1)
    elif run is None:
        listing.show_runs(runs, as_json)
    else:
        listing.show_run(runs, run, as_json)


@app.command()
def data(
    source: Annotated[str | None, typer.Argument(metavar="NAME|PATH", help="Look into this one.")] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN", help="Tables: the column to predict.")] = None,
    test_data: Annotated[str | None, typer.Option(help="The test split, where it lies apart.")] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Images: write a contact sheet (PNG) here.", show_default="contact-sheet-NAME.png"),
    ] = None,
    skip_bad: Annotated[bool, typer.Option(help="Leave unreadable images out and go on.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the datasets known by name, or look into one: counts, shapes, ranges, gaps, duplicates, pictures."""
    from rushlight.cli.overview import show_data, show_datasets

    if source is None:
        show_datasets(as_json)
    else:
        show_data(source, target, test_data, sheet, skip_bad, as_json)


@app.command()
def env(as_json: AsJson = False) -> None:
    """Print what this machine has and can do, to paste into a bug report."""
    from rushlight.cli.environment import show_environment

    show_environment(as_json)
