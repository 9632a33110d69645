"""Every command and its options. What takes long to import is imported inside the command that needs it."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rushlight.cli.help import Command, Program
from rushlight.cli.values import chosen, takes_options

STARTED = time.perf_counter()  # near enough to the start of the process: Python itself takes about 20 ms before

app = typer.Typer(
    cls=Program,
    name="rushlight",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Runs = Annotated[Path, typer.Option("--runs")]
RunName = Annotated[str, typer.Argument(metavar="RUN")]
Json = Annotated[bool, typer.Option("--json")]
Force = Annotated[bool, typer.Option("--force")]
Model = Annotated[str | None, typer.Option("--model", metavar="FILE:CLASS")]


def print_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        import rushlight
        from rushlight.console import print_lines

        print_lines(" ".join(["rushlight", rushlight.__version__]))
        raise typer.Exit


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True)] = False) -> None:
    # no docstring: typer would show it
    pass


@app.command(cls=Command)
@takes_options("train")
def train(
    model: Annotated[str, typer.Argument(metavar="MODEL")] = "mlp",
    data: Annotated[str, typer.Argument(metavar="DATA")] = "fashion-mnist",
    *,
    folds: Annotated[int | None, typer.Option("--folds", metavar="COUNT")] = None,
    json: Json = False,
    **options: Any,
) -> None:
    import rushlight

    if folds is not None:
        from rushlight.console import print_json, print_lines
        from rushlight.runs import typed
        from rushlight.texts import text

        found = rushlight.cross_validate(model, data, folds, **chosen(options), to_stderr=json)
        if json:
            print_json(found.to_json())
        elif not launched_elsewhere():
            print_lines(str(found))
            if not options["quiet"]:
                print_lines(text("console.summary.folds", run=typed(from_here(found.runs[0].folder))))
        return
    show_end(rushlight.train(model, data, **chosen(options), to_stderr=json), json, bool(options["quiet"]))


@app.command(cls=Command)
@takes_options("resume")
def resume(run: RunName = "latest", *, model: Model = None, json: Json = False, **options: Any) -> None:
    import rushlight

    show_end(rushlight.resume(run, model, **chosen(options), to_stderr=json), json, bool(options["quiet"]))


def launched_elsewhere() -> bool:
    """Tell whether this is one of several launched processes, and not the first, which speaks for all."""
    if "RANK" not in os.environ:  # which every launcher sets: no torch is needed to say so
        return False
    from rushlight.training import launched_by

    place = launched_by()
    return place is not None and place[0] > 0


def from_here(folder: Path) -> Path:
    """Return a folder relative to the working folder, where it is within: several processes are told the whole path."""
    is_within = folder.is_absolute() and folder.is_relative_to(Path.cwd())
    return folder.relative_to(Path.cwd()) if is_within else folder


def show_end(run: Any, as_json: bool, quiet: bool) -> None:
    """Print how a training ended: as JSON, or as a report with what to do next."""
    from rushlight.console import print_json, print_report, print_summary
    from rushlight.texts import quoted

    if launched_elsewhere():
        return
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
    folder = from_here(run.folder)
    name = "latest" if folder.parent == Path("runs") else quoted(folder)
    print_summary(folder=folder, seconds=wall, test=summary["test"], run=name)


@app.command(cls=Command)
@takes_options("tune")
def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL")] = "mlp",
    data: Annotated[str, typer.Argument(metavar="DATA")] = "fashion-mnist",
    *,
    trials: int = 50,
    hours: float | None = None,
    space: Annotated[Path | None, typer.Option("--space", metavar="FILE.toml")] = None,
    jobs: int = 1,
    ray: Annotated[str | None, typer.Option("--ray", metavar="ADDRESS")] = None,
    seeds: int = 3,
    find_lr: Annotated[bool, typer.Option("--find-lr")] = False,
    find_batch_size: Annotated[bool, typer.Option("--find-batch-size")] = False,
    json: Json = False,
    **options: Any,
) -> None:
    if find_lr or find_batch_size:
        from rushlight.cli.rehearsing import show_rate, show_sizes

        for show in [show_rate] * find_lr + [show_sizes] * find_batch_size:
            show(model, data, chosen(options), json)
        return
    import rushlight
    from rushlight.console import print_json, print_study

    search = {"trials": trials, "hours": hours, "space": space, "jobs": jobs, "ray": ray, "seeds": seeds}
    found = rushlight.tune(model, data, **search, **chosen(options), to_stderr=json).to_json()
    if json:
        print_json(found)
    elif not options["quiet"]:
        print_study(found)


@app.command(cls=Command)
def test(
    run: RunName = "latest",
    data: str | None = None,
    model: Model = None,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    import rushlight
    from rushlight.console import print_json, print_report

    with telling_warnings():
        report = rushlight.open_run(run, model, runs=runs).test(data).to_json()
        if json:
            print_json(report)
        else:
            print_report(report)


@contextlib.contextmanager
def telling_warnings() -> Iterator[None]:
    """Print the warnings of the block, at its end, on standard error."""
    from rushlight.console import open_console, print_marked
    from rushlight.texts import shown, text

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for warning in told:
        assert isinstance(warning.message, Warning)
        print_marked(
            open_console(to_stderr=True), text("console.warning"), "bold yellow", shown(warning.message.args[0])
        )


@app.command(cls=Command)
def predict(
    run: RunName,
    inputs: Annotated[list[str], typer.Argument(metavar="FILE…")],
    top: int = 3,
    model: Model = None,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    from rushlight.cli.predictions import print_predictions

    print_predictions(run, model, runs, inputs, top, json)


@app.command(cls=Command)
def save(
    run: RunName,
    path: Annotated[Path, typer.Argument(metavar="PATH")],
    model: Model = None,
    runs: Runs = Path("runs"),
    force: Force = False,
) -> None:
    import rushlight
    from rushlight import files
    from rushlight.console import print_lines
    from rushlight.export import save_model
    from rushlight.texts import text

    if path.suffix:  # a folder is a bundle's, and is checked as that
        files.check_replaceable([path], force)
    with telling_warnings():
        if (Path(run) / "model.json").is_file():
            saved = rushlight.open_bundle(run, model)
            save_model(path, saved.model, lambda: saved.bundle, Path(run))
        else:
            rushlight.open_run(run, model, runs=runs).save(path)
        print_lines(text("console.saved", path=path))


@app.command(cls=Command)
def eject(
    run: RunName = "latest",
    path: Annotated[Path, typer.Argument(metavar="PATH")] = Path("train.py"),
    model: Model = None,
    runs: Runs = Path("runs"),
    force: Force = False,
) -> None:
    import rushlight
    from rushlight.console import print_lines
    from rushlight.texts import text

    reason = rushlight.open_run(run, runs=runs).eject(path, model, force=force)
    print_lines(
        text("eject.said", path=path) if reason is None else text("eject.said-unclaimed", path=path, reason=reason)
    )


@app.command(cls=Command)
def runs(
    run: Annotated[str | None, typer.Argument(metavar="RUN")] = None,
    runs: Runs = Path("runs"),
    verify: Annotated[bool, typer.Option("--verify")] = False,
    delete: Annotated[bool, typer.Option("--delete")] = False,
    yes: Annotated[bool, typer.Option("--yes")] = False,
    json: Json = False,
) -> None:
    from rushlight.cli import listing
    from rushlight.errors import UsageError

    if verify and delete:
        raise UsageError("verify-and-delete")
    if delete:
        listing.delete(runs, run, yes, json)
    elif verify:
        if not listing.verify(runs, run, json):
            raise typer.Exit(1)
    elif run is None:
        listing.show_runs(runs, json)
    else:
        listing.show_run(runs, run, json)


@app.command(cls=Command)
def board(
    runs: Annotated[Path, typer.Argument(metavar="RUNS")] = Path("runs"),
    port: Annotated[int | None, typer.Option("--port", metavar="PORT")] = None,
    no_open: Annotated[bool, typer.Option("--no-open")] = False,
    language: str | None = None,
    export: Annotated[Path | None, typer.Option("--export", metavar="FILE.html")] = None,
    force: Force = False,
    allow_host: Annotated[str | None, typer.Option("--allow-host", metavar="NAME")] = None,
) -> None:
    from rushlight.board import export_run, serve_board
    from rushlight.console import print_lines
    from rushlight.errors import check_choice
    from rushlight.formats import format_bytes
    from rushlight.runs import find_run, is_run
    from rushlight.texts import LANGUAGES, fill, text
    from rushlight.texts import language as usual

    chosen = language or usual()
    check_choice("language", chosen, LANGUAGES)
    if export is not None:
        run = runs if is_run(runs) else find_run(runs, "latest")
        size = export_run(run, export, chosen, force)
        print_lines(text("board.exported", run=run.name, path=export, size=format_bytes(size)))
        return

    def announce(address: str) -> None:
        print_lines(fill(chosen, "board.open" if allow_host is None else "board.open-to-others", {"address": address}))

    serve_board(runs, port, chosen, announce, not no_open, allow_host)


@app.command(cls=Command)
def serve(
    run: Annotated[list[str] | None, typer.Argument(metavar="RUN|BUNDLE|ONNX…")] = None,
    models: Annotated[Path | None, typer.Option("--models", metavar="FOLDER")] = None,
    model: Model = None,
    runs: Runs = Path("runs"),
    name: str | None = None,
    port: Annotated[int | None, typer.Option("--port", metavar="PORT")] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS")] = "127.0.0.1",
    allow_host: Annotated[list[str] | None, typer.Option("--allow-host", metavar="NAME")] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", metavar="FILE")] = None,
    insecure: Annotated[bool, typer.Option("--insecure")] = False,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", metavar="PORT")] = None,
    management_port: Annotated[int | None, typer.Option("--management-port", metavar="PORT")] = None,
    access_log: Annotated[Path | None, typer.Option("--access-log", metavar="FILE")] = None,
    threads: int = 0,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE")] = "auto",
    workers: int = 1,
    deadline: float = 30.0,
    drain: float = 20.0,
    language: str | None = None,
    write: Annotated[tuple[str, Path] | None, typer.Option("--write", metavar="KIND DIR")] = None,
    force: Force = False,
) -> None:
    from rushlight.cli.serving import serve_until_told

    serve_until_told(
        write, run or ([] if models else ["latest"]), runs, model, language, insecure, token_file, access_log, force, name=name, port=port,
        host=host, hosts=tuple(allow_host or ()), models=models, grpc=grpc_port, management=management_port, threads=threads,
        device=device, workers=workers, deadline=deadline, drain=drain,
    )  # fmt: skip


@app.command(cls=Command)
@takes_options("open_data")
def data(
    source: Annotated[str | None, typer.Argument(metavar="NAME|PATH")] = None,
    *,
    sheet: Annotated[Path | None, typer.Option(show_default="contact-sheet-NAME.png")] = None,
    force: Force = False,
    json: Json = False,
    **options: Any,
) -> None:
    from rushlight.cli.overview import show_data, show_datasets

    if source is None:
        show_datasets(json)
    else:
        show_data(source, chosen(options), sheet, json, force)


@app.command(cls=Command)
def env(json: Json = False) -> None:
    from rushlight.cli.environment import show_environment

    show_environment(json)
