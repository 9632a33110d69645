"""Every command and its options. What takes long to import is imported inside the command that needs it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from rushlight.cli.values import as_size, names, numbers, settings

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
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output; all else on standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Device = Annotated[str, typer.Option(help="auto (the best there is), cpu, cuda, cuda:1, xpu or mps.")]

OnNan = Annotated[
    str | None,
    typer.Option(
        help="When a loss or gradient is not finite: stop, skip that step, or rollback to the epoch's start with half the learning rate.",
        show_default="stop",
    ),
]
Inexact = Annotated[
    bool,
    typer.Option(help="Go on although something changed that the bits depend on; the run says so for ever after."),
]

Profile = Annotated[
    bool,
    typer.Option("--profile", help="Say where the time of a step goes and what limits it, then train on as always."),
]

DATA = "Data"
LEARNING = "Learning"
RUN = "Run"


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
def train(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]", help="mlp, cnn, resnet, linear, or your own: file.py:Class or package.module:Class."
        ),
    ] = "mlp",
    data: Annotated[
        str,
        typer.Argument(
            metavar="[DATA]",
            help="A name (see: rushlight data), a folder of images, a CSV or Parquet file, .npz, idx files.",
        ),
    ] = "fashion-mnist",
    epochs: Annotated[int, typer.Option(help="How often every sample is seen.", rich_help_panel=LEARNING)] = 5,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per step.", show_default="64", rich_help_panel=LEARNING)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="The learning rate.", show_default="torch's for the optimizer", rich_help_panel=LEARNING),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="Any class of torch.optim: AdamW, SGD, Adam, RMSprop, …",
            show_default="AdamW",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="For optimizers that have it, SGD say.", rich_help_panel=LEARNING)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Pulls weights towards zero.", rich_help_panel=LEARNING)
    ] = None,
    optimizer_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Any other argument of the optimizer; may be repeated.", rich_help_panel=LEARNING
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="cross-entropy, mse, l1, huber, bce, or any loss class of torch.nn.",
            show_default="by the task",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option(
            help="How the learning rate moves: constant, cosine or onecycle; auto is cosine, or constant once --optimizer or --lr is chosen.",
            rich_help_panel=LEARNING,
        ),
    ] = "auto",
    warmup: Annotated[
        int, typer.Option(help="Steps over which the learning rate rises to its value.", rich_help_panel=LEARNING)
    ] = 0,
    clip_norm: Annotated[
        float | None, typer.Option(help="Scale gradients down to this norm at the most.", rich_help_panel=LEARNING)
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(
            help="Batches whose gradients make one step: a big batch in little memory.", rich_help_panel=LEARNING
        ),
    ] = 1,
    early_stopping: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCHS",
            help="Stop after so many epochs without a better test; keep the best.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.", rich_help_panel=LEARNING)] = "float32",
    numerics: Annotated[
        str,
        typer.Option(
            help="exact: bit for bit the plain loop; fast: only rounding may differ.", rich_help_panel=LEARNING
        ),
    ] = "fast",
    compile_steps: Annotated[
        str,
        typer.Option(
            "--compile",
            help="auto: beside the training, when that will pay; first: before it begins; never. "
            "For SGD, Adam and AdamW, on Linux with a C++ compiler.",
            rich_help_panel=LEARNING,
        ),
    ] = "auto",
    seed: Annotated[
        int, typer.Option(help="Of the order, the initial weights, dropout and augmentation.", rich_help_panel=LEARNING)
    ] = 0,
    hidden: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Hidden layers of mlp: 512,512.", rich_help_panel=LEARNING)
    ] = None,
    model_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A constructor argument of the model; may be repeated.", rich_help_panel=LEARNING
        ),
    ] = None,
    test_data: Annotated[
        str | None, typer.Option(help="What to test on, where DATA does not bring it.", rich_help_panel=DATA)
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Tables: the column to predict.", rich_help_panel=DATA)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification, binary, multilabel or regression.",
            show_default="by the target's kind",
            rich_help_panel=DATA,
        ),
    ] = None,
    normalize: Annotated[
        str,
        typer.Option(
            help="standard (mean 0, std 1), unit (÷255, as ToTensor does), none, or auto.", rich_help_panel=DATA
        ),
    ] = "auto",
    image_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Resize images: 64, or 48x64 (height x width).", rich_help_panel=DATA),
    ] = None,
    test_fraction: Annotated[
        float, typer.Option(help="What is set aside where there is no test split.", rich_help_panel=DATA)
    ] = 0.2,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Class names, where the data has none: cat,dog.", rich_help_panel=DATA),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option(help="Leave unreadable images out and go on.", rich_help_panel=DATA)
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that read data which does not fit in memory.", rich_help_panel=DATA)
    ] = 0,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    name: Annotated[
        str | None, typer.Option(help="The run's name.", show_default="date, model and data", rich_help_panel=RUN)
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option(help="Write TensorBoard event files into the run folder too.", rich_help_panel=RUN)
    ] = False,
    profile: Profile = False,
    on_nan: OnNan = None,
    keep_epochs: Annotated[
        bool,
        typer.Option(help="Keep each epoch's checkpoint, not just the last two and the best.", rich_help_panel=RUN),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on with the newest unfinished run of this very recipe; begin one where there is none.",
            rich_help_panel=RUN,
        ),
    ] = False,
    inexact: Inexact = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train MODEL on DATA and test it after every epoch.

    Everything goes into one folder under --runs: what was asked, every step's loss, checkpoints, the report and the
    trained model. Ctrl-C saves; [bold]rushlight resume[/bold] goes on.
    """
    import rushlight

    optimizer_arguments = settings("optimizer-arg", optimizer_arg)
    optimizer_arguments |= {
        key: value for key, value in (("momentum", momentum), ("weight_decay", weight_decay)) if value is not None
    }
    model_arguments = settings("model-arg", model_arg)
    model_arguments |= {} if hidden is None else {"hidden": numbers("hidden", hidden)}
    chosen: dict[str, Any] = {
        "epochs": epochs, "lr": lr, "optimizer": optimizer, "optimizer_arguments": optimizer_arguments, "loss": loss,
        "schedule": schedule, "warmup": warmup, "clip_norm": clip_norm, "accumulate": accumulate,
        "early_stopping": early_stopping, "precision": precision, "numerics": numerics, "compile": compile_steps, "seed": seed,
        "model_arguments": model_arguments, "test_data": test_data, "target": target, "task": task, "normalize": normalize,
        "image_size": as_size("image-size", image_size), "test_fraction": test_fraction, "classes": names(classes),
        "skip_bad": skip_bad, "workers": workers, "device": device, "runs": runs, "name": name, "quiet": quiet,
        "to_stderr": as_json, "batch_size": batch_size, "tensorboard": tensorboard or None,
        "on_nan": on_nan, "keep_epochs": keep_epochs or None, "resume": resume or None, "inexact": inexact or None,
        "profile": profile or None,
    }  # fmt: skip
    show_end(rushlight.train(model, data, **chosen), as_json, quiet)


@app.command()
def resume(
    run: RunName = "latest",
    epochs: Annotated[
        int | None, typer.Option(help="Train to this many epochs in all.", show_default="as planned")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="constant, to go beyond a cosine or one-cycle schedule.", show_default="as planned"),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="STEP|NAME",
            help="Go back to this checkpoint; newer ones are deleted.",
            show_default="the newest that is whole",
        ),
    ] = None,
    on_nan: OnNan = None,
    inexact: Inexact = False,
    profile: Profile = False,
    device: Annotated[str | None, typer.Option(help="Another device than the run's; needs --inexact.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was interrupted, from its newest checkpoint, to the bits of one that never was."""
    import rushlight

    more: dict[str, Any] = {
        "epochs": epochs, "schedule": schedule, "checkpoint": checkpoint, "on_nan": on_nan, "inexact": inexact or None,
        "profile": profile or None, "device": device, "runs": runs, "quiet": quiet, "to_stderr": as_json,
    }  # fmt: skip
    show_end(rushlight.resume(run, **more), as_json, quiet)


def quoted(path: Path) -> str:
    """Return a path as it is typed into a shell."""
    return f'"{path}"' if " " in str(path) else str(path)


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
    name = "latest" if run.folder.parent == Path("runs") else quoted(run.folder)
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
        str | None, typer.Argument(metavar="[RUN]", help='This one: its folder, its name or a part of it, or "latest".')
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
    source: Annotated[str | None, typer.Argument(metavar="[NAME|PATH]", help="Look into this one.")] = None,
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
    """Print what this machine has and can do, to paste into a bug report; measure in a second whether bfloat16 pays."""
    from rushlight.cli.environment import show_environment

    show_environment(as_json)
