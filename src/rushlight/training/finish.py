"""The end of a run: the best weights, the bundle, the report, the plots, the closed history."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rushlight import files
from rushlight.errors import WeightsError
from rushlight.export import bundle_architecture, load_state, write_bundle
from rushlight.models import call_model
from rushlight.report import Report
from rushlight.runs import age, inexact_resumes, read_history, read_losses, write_session
from rushlight.texts import Note
from rushlight.training.checkpoint import best_checkpoint, read_model_state, state_digest
from rushlight.training.evaluation import Outcome, beside_naive, drawing_the_same, evaluate
from rushlight.training.loop import Epoch, evaluation_size, set_training_mode
from rushlight.training.state import Training
from rushlight.version import __version__

MOST_NAMES = 1_000_000  # of samples that predictions.npz names; more are known by their order


def finish_together(training: Training, last: Epoch | None) -> None:
    """Finish the run; of several processes the first one does, and the others get its weights.

    A model that is divided is whole again in all of them first.
    """
    world, shards = training.world, training.shards
    if shards is not None:
        shards.put_back()
    world.first_does(lambda: finish_run(training, last))
    if shards is not None:
        for each in training.model.state_dict().values():
            if isinstance(each, Tensor):
                world.give(each)
        training.model.eval()
    elif world.is_shared:
        model = training.model
        found = world.share_tensors(
            lambda: {name: each for name, each in model.state_dict().items() if isinstance(each, Tensor)}
        )
        if not world.is_first:
            model.load_state_dict(found, strict=False)
            model.eval()


def finish_run(training: Training, last: Epoch | None) -> None:
    """Write the bundle, the report and the plots of a run, and close its history.

    The report is of the test split and of the weights that are kept: the last epoch's test, where it was of these.
    """
    training.model.eval()  # training is over: from here on it is used
    if training.average is not None:
        training.average.load_into_model()
    is_equal = training.recipe.swa is not None
    if is_equal:
        renew_statistics(training)
        training.events.message(Note("training.mean-kept", swa=training.recipe.swa))
    report, outcome = (last.test, last.outcome) if last is not None else (None, None)
    step = load_best(training)
    if step is not None:
        training.events.message(Note("training.best-kept", step=step))
    has_validation, test = (
        training.data.validation is not None,
        training.data.test if training.recipe.final_test else None,
    )
    if step is not None or has_validation or is_equal or (last is None and training.state["step"]):
        report, outcome = None, None
        if test is not None:
            size = evaluation_size(training, test)
            report, outcome = evaluate(training.model, test, training.objective, training.data.target, size)
    if report is not None and test is not None:
        report = beside_naive(report, test, training.data.features, training.data.target)
    step = training.state["step"] if step is None else step
    save_bundle(training.folder / "model", training, report, step)
    save_report(training.folder, report, outcome)
    try:
        if training.recipe.final_test:  # the trials of a search are many, and the board draws them
            write_plots(training.folder, report)
    except Exception as error:  # whatever a font or a canvas may raise, a picture must not cost the run its end
        training.events.warning(Note("training.plots-failed", reason=f"{type(error).__name__}: {error}"))
    tested = (
        {"test": report.short()} if (has_validation or is_equal) and report else {}
    )  # else the epochs' lines have it
    training.events.emit("event", event="finished", step=step, state_sha256=state_digest(training.model), **tested)
    training.history.flush()
    for file in (training.history.lines, training.history.losses):  # what is told to be finished survives a power cut
        files.sync_file(file.path)
    write_session(training.folder, "finished", training.state["step"])


def renew_statistics(training: Training) -> None:
    """Take the running statistics of the BatchNorm layers anew, for weights that they were never updated with.

    They become the means over the batches of one more epoch, in training mode, as torch.optim.swa_utils.update_bn has them.
    Modules that are kept in eval mode keep theirs.
    """
    model, objective, recipe = training.model, training.objective, training.recipe
    set_training_mode(training)
    norms = [
        each for each in model.modules() if isinstance(each, _BatchNorm) and each.training and each.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    if norms:
        feed = training.data.train.batches(recipe.batch_size, seed=recipe.seed, epoch=recipe.epochs + 1)
        try:
            with torch.no_grad(), drawing_the_same():
                for batch in feed:
                    call_model(model, batch[0]) if objective.own is None else objective.own(model, batch)
        finally:
            feed.close()
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    model.eval()


def load_best(training: Training) -> int | None:
    """Load the weights of the best epoch where early stopping asks for them; return their step, or None for the last ones."""
    if not training.recipe.keeps_best or not training.state["epochs_since_best"]:
        return None
    best = best_checkpoint(training.folder)
    if best is None:
        return None
    try:
        load_state(training.model, read_model_state(best), str(best))
        if isinstance(loss := training.objective.loss, nn.Module) and loss.state_dict():
            load_state(loss, read_model_state(best, "loss"), str(best))
    except WeightsError as error:
        training.events.warning(Note("training.last-kept", problem=error.record))
        return None
    return age(best)[0]


def save_report(folder: Path, report: Report | None, outcome: Outcome | None) -> None:
    """Write report.json and predictions.npz of a test, with the samples' names where they have any."""
    if report is None:
        return
    files.write_json(folder / "report.json", report.to_json())
    if outcome is not None:
        with files.replacing(folder / "predictions.npz") as file:
            arrays: dict[str, Any] = {
                name: getattr(outcome, name).numpy() for name in ("truth", "predicted", "confidence")
            }
            if outcome.names is not None and len(outcome.names) <= MOST_NAMES:
                arrays["names"] = np.array(list(outcome.names), dtype=np.str_)
            np.savez_compressed(file, **arrays)


def write_plots(folder: Path, report: Report | None) -> None:
    """Draw the loss curve and the confusion matrix as PNG."""
    from rushlight.report import write_confusion_plot, write_loss_plot

    lines = [line for line in read_history(folder) if line["kind"] == "epoch"]
    write_loss_plot(folder / "loss.png", read_losses(folder), lines)
    if report is not None and report.confusion:
        write_confusion_plot(folder / "confusion.png", report.confusion, [figures.name for figures in report.classes])


def save_bundle(folder: Path, training: Training, report: Report | None, step: int) -> None:
    """Write the deliverable: weights, signature, preprocessing, classes, examples; data only."""
    data = training.data
    examples = data.examples if training.objective.loss is not None else None  # else only its objective can call it
    name, value = report.headline if report else ("loss", math.nan)
    provenance = {
        "run": training.folder.name, "data": data.name, "data_fingerprint": data.fingerprint, "step": step,
        "rushlight": __version__, "torch": torch.__version__, "time": time.time(),
        "inexact": inexact_resumes(training.folder), "figure": {"name": name, "value": value if math.isfinite(value) else None},
        "classes": {figures.name: figures.n for figures in report.classes} if report else {},  # a server compares live ones
    }  # fmt: skip
    write_bundle(
        folder, training.model, features=data.features, target=data.target, architecture=bundle_architecture(training.recipe.model),
        provenance=provenance, examples=examples,
    )  # fmt: skip
