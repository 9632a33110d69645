"""A run, afterwards: how it is finished, and the handle with which its model is tested, used and saved."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

import rushlight
from rushlight import files
from rushlight.console import fetch_progress
from rushlight.data.batches import Data, Split
from rushlight.data.matching import open_like
from rushlight.data.opening import open_source, options_from_json, retarget
from rushlight.data.spec import FeatureSpec, TargetSpec
from rushlight.device import choose_device
from rushlight.errors import RunError, UsageError, WeightsError
from rushlight.export.bundle import Bundle, load_bundle, read_bundle, write_bundle
from rushlight.export.predict import Predictions, predict
from rushlight.export.weights import load_state, write_weights
from rushlight.models import build_model
from rushlight.runs.folder import read_json, read_recipe
from rushlight.runs.history import read_history, read_losses
from rushlight.runs.sessions import inexact_resumes, write_session
from rushlight.training.checkpoint import age, best_checkpoint, latest_checkpoint, read_model_state, state_digest
from rushlight.training.evaluate import Outcome, Report, evaluate
from rushlight.training.loop import Epoch, test_batch_size, tested_together
from rushlight.training.objective import Objective, make_objective, named_loss, task_of_loss
from rushlight.training.options import Options, check_options
from rushlight.training.prepare import build_imported, check_rebuildable, data_choices, rebuild_model, restored
from rushlight.training.recipe import Recipe, recipe_from_json
from rushlight.training.state import Training

# ── the end of a run ─────────────────────────────────────────────────────────────────────────────────────────


def finish(training: Training, last: Epoch | None) -> None:
    """Write the bundle, the report and the plots of a run, and close its history."""
    training.progress.close()
    training.model.eval()  # training is over: from here on it is used
    report, outcome = (last.test, last.outcome) if last is not None else (None, None)
    step = load_best(training)
    if step is not None:
        training.progress.message(f"The weights of the best epoch (step {step:,}) are kept.")
    if step is not None or (last is None and training.state["step"]):  # the last test was of other weights, or is gone
        report, outcome = test_model(training.model, training.data.test, training)
    step = training.state["step"] if step is None else step
    save_bundle(training.folder / "model", training, report, step)
    save_report(training.folder, report, outcome)
    try:
        write_plots(training.folder, report)
    except Exception as error:  # whatever a font or a canvas may raise, a picture must not cost the run its end
        training.progress.warning(f"The plots could not be drawn: {type(error).__name__}: {error}")
    event = {"kind": "event", "event": "finished", "step": step, "state_sha256": state_digest(training.model)}
    training.history.write({**event, "time": time.time()})
    training.history.flush()
    for file in (training.history.lines, training.history.losses):  # what is told to be finished survives a power cut
        files.sync_file(file.path)
    write_session(training.folder, "finished", training.state["step"])


def load_best(training: Training) -> int | None:
    """Load the weights of the best epoch where early stopping asks for them; return their step, or None for the last ones."""
    if training.recipe.early_stopping is None or not training.state["epochs_since_best"]:
        return None
    best = best_checkpoint(training.folder)
    if best is None:
        return None
    try:
        load_state(training.model, read_model_state(best), str(best))
    except WeightsError as error:
        training.progress.warning(f"{error.problem} The last weights are kept instead of the best.")
        return None
    return age(best)[0]


def test_model(model: nn.Module, split: Split | None, training: Training) -> tuple[Report | None, Outcome | None]:
    """Test a model of a run on one split."""
    if split is None:
        return None, None
    return evaluate(model, split, training.objective, training.data.target, tested_together(training, split))


def save_report(folder: Path, report: Report | None, outcome: Outcome | None) -> None:
    """Write report.json and predictions.npz of a test."""
    if report is None:
        return
    files.write_json(folder / "report.json", report.to_json())
    if outcome is not None:
        with files.replacing(folder / "predictions.npz") as file:
            arrays = {name: getattr(outcome, name).numpy() for name in ("truth", "predicted", "confidence")}
            np.savez_compressed(file, **arrays)


def write_plots(folder: Path, report: Report | None) -> None:
    """Draw the loss curve and the confusion matrix as PNG."""
    from rushlight.training.plots import write_confusion_plot, write_loss_plot

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
        "rushlight": rushlight.__version__, "torch": torch.__version__, "time": time.time(),
        "inexact": inexact_resumes(training.folder), "figure": {"name": name, "value": value if math.isfinite(value) else None},
    }  # fmt: skip
    write_bundle(
        folder, training.model, features=data.features, target=data.target, architecture=bundle_architecture(training.recipe.model),
        provenance=provenance, examples=examples,
    )  # fmt: skip


# ── a run, afterwards ────────────────────────────────────────────────────────────────────────────────────────


class Run:
    """One run on disk: its model to test, use, save and look into. `folder` is the truth; everything is read from it."""

    def __init__(self, folder: Path, training: Training | None = None, model: nn.Module | None = None) -> None:
        self.folder = folder
        self._training = training
        self._model = training.model if training is not None else None
        self._known_specs: tuple[FeatureSpec, TargetSpec] | None = None
        if model is not None:
            self._model = self._load_model(model)

    def __repr__(self) -> str:
        return f'<rushlight.Run "{self.name}">'

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.folder.name

    @property
    def recipe(self) -> Recipe:
        """What was asked for."""
        return recipe_from_json(read_recipe(self.folder))

    @property
    def history(self) -> list[dict[str, Any]]:
        """What happened, line by line; the kinds of line are listed in `rushlight.runs.history`."""
        return read_history(self.folder)

    @property
    def losses(self) -> np.ndarray:
        """The loss of every step, float32, shape (steps,)."""
        return np.asarray(read_losses(self.folder), dtype=np.float32)

    @property
    def report(self) -> Report | None:
        """The last test's report, or None."""
        path = self.folder / "report.json"
        if not path.is_file():
            return None
        try:
            return Report.from_json(read_json(path))
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise RunError("run-file-damaged", path=path, reason=f"it is no report: {error}") from error

    @property
    def notes(self) -> list[str]:
        """What was decided on the way and said aloud when the run started, a sentence each."""
        path = self.folder / "environment.json"
        content = read_json(path)
        notes = content.get("data_notes") if isinstance(content, dict) else None
        if not isinstance(notes, list):
            raise RunError("run-file-damaged", path=path, reason='it has no "data_notes"')
        return notes

    @property
    def bundle(self) -> Bundle:
        """The run's bundle as it is on disk."""
        if not (self.folder / "model").is_dir():
            raise RunError("no-bundle", run=self.name)
        return read_bundle(self.folder / "model")

    @property
    def model(self) -> nn.Module:
        """The trained model: the finished run's, or that of the newest checkpoint."""
        if self._model is None:
            self._model = self._load_model()
        return self._model

    def _load_model(self, model: nn.Module | None = None) -> nn.Module:
        """Build the architecture again and load the weights."""
        described = self.recipe.model
        if not (self.folder / "model").is_dir():
            model = model if model is not None else rebuild_model(self.folder, described, self._open())
            load_state(model, read_model_state(latest_checkpoint(self.folder)), self.name)
            return model.eval()
        if model is None:
            check_rebuildable(self.folder, described)
            model = build_imported(described) if "import" in described else None
        return load_bundle(self.folder / "model", model, build_bundled)

    def test(self, data: Any = None, **options: Unpack[Options]) -> Report:
        """Test the model on the run's own test split, or on other data, prepared as its own was; keep the report.

        Other data is tested on its test split where it has one, else on all of it.

        Raises:
            UsageError: there is nothing to test on.
            DataError: the other data does not fit the model.
        """
        options = check_options(options)
        loss = options.pop("loss", None)
        features, target = self._specs()
        opening = replace(options_from_json(self.recipe.data["options"]), **data_choices(options))
        if data is not None:
            split: Split | None = open_like(data, features, target, opening, fetch_progress())
        elif self._training is not None:
            split = self._training.data.test
        else:
            split = self._open().test
        if split is None:
            raise UsageError("nothing-to-test", run=self.name)
        device, _ = choose_device(self.recipe.device)
        training = self._training
        model, split = self.model.to(device), split.to(device)
        size = test_batch_size(self.recipe, split, model) if training is None else tested_together(training, split)
        report, outcome = evaluate(model, split, self._objective(loss), target, size)
        save_report(self.folder, report, outcome)
        return report

    def _open(self) -> Data:
        """Open the run's data again, as its recipe says, with targets as its loss wants them."""
        data = open_source(*self._source(), options_from_json(self.recipe.data["options"]), fetch_progress())
        loss = self.recipe.loss
        if loss.get("live") or data.target is None:
            return data
        return retarget(data, task_of_loss(named_loss(loss["name"]), data.target.task))

    def _objective(self, given: Any) -> Objective:
        """Return the objective that the run was trained with; a live loss has to be given again."""
        if self._training is not None:
            return self._training.objective
        loss = self.recipe.loss
        if loss.get("live") and not callable(given):
            raise RunError("live-loss", run=self.name)
        return make_objective(given if loss.get("live") else named_loss(loss["name"]))

    def _source(self) -> tuple[Any, Any]:
        """Return where the run's data and test data are."""
        described = self.recipe.data
        if "source" not in described:
            raise RunError("live-data", run=self.name, data=described.get("name"))
        return described["source"], described.get("test")

    def predict(self, inputs: Any, batch_size: int = 512) -> Predictions:
        """Predict from arrays, tensors, image files or tables; NumPy out.

        Raises:
            DataError: the inputs are not what the model takes; the message has expected and found.
        """
        bundle_features, bundle_target = self._specs()
        device, _ = choose_device(self.recipe.device)
        return predict(
            self.model.to(device),
            inputs,
            bundle_features,
            bundle_target,
            device=device,
            batch_size=batch_size,
        )

    def _specs(self) -> tuple[FeatureSpec, TargetSpec]:
        """Return the specs of inputs and targets; reading them checks the whole bundle, so that is done once."""
        if self._known_specs is None:
            self._known_specs = self._read_specs()
        return self._known_specs

    def _read_specs(self) -> tuple[FeatureSpec, TargetSpec]:
        if self._training is not None:
            features, target = self._training.data.features, self._training.data.target
        elif (self.folder / "model").is_dir():
            features, target = self.bundle.features, self.bundle.target
        else:  # it did not finish
            data = self._open()
            features, target = data.features, data.target
        if features is None or target is None:
            raise UsageError("no-signature", run=self.name)
        return features, target

    def save(self, path: str | Path) -> Path:
        """Save the model by the path's ending: .pth (a plain state_dict), .safetensors, or none: a folder (the bundle)."""
        path = Path(path)
        if path.suffix:
            write_weights(self.model, path)
        elif self._training is not None and not (self.folder / "model").is_dir():  # in the middle of a loop
            save_bundle(path, self._training, self.report, self._training.state["step"])
        else:
            bundle = self.bundle
            write_bundle(
                path, self.model, features=bundle.features, target=bundle.target, architecture=bundle.architecture,
                provenance=bundle.provenance, examples=bundle.examples.get("inputs"),
            )  # fmt: skip
        return path

    def summary(self) -> dict[str, Any]:
        """Return the run's figures, as `--json` prints them."""
        lines = self.history
        last = next((line for line in reversed(lines) if line["kind"] == "epoch"), None)
        finished: dict[str, Any] = next((line for line in reversed(lines) if line.get("event") == "finished"), {})
        seconds = sum(line["seconds"] for line in lines if line["kind"] == "epoch")
        return {
            "run": self.name,
            "folder": str(self.folder),
            "steps": last["step"] if last else 0,
            "epochs": last["epoch"] if last else 0,
            "seconds": seconds,
            "train_loss": last["train_loss"] if last else None,
            "test": last["test"] if last else None,
            "state_sha256": finished.get("state_sha256"),
            "inexact": inexact_resumes(self.folder),
            "ways": [
                {name: line[name] for name in ("step", "way", "message")}
                for line in lines
                if line.get("event") == "way"
            ],
        }


@dataclass(frozen=True)
class SavedModel:
    """A bundle, opened: the model with all it takes to use it, on any machine."""

    model: nn.Module
    bundle: Bundle

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; none for a regression."""
        return self.bundle.target.classes if self.bundle.target is not None else ()

    def predict(self, inputs: Any, batch_size: int = 512) -> Predictions:
        """Predict as `Run.predict` does."""
        if self.bundle.features is None or self.bundle.target is None:
            raise UsageError("no-signature", run=self.bundle.provenance.get("run"))
        return predict(self.model, inputs, self.bundle.features, self.bundle.target, batch_size=batch_size)


def bundle_architecture(described: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's model as a bundle describes it: by name where it can be built from that, else by its class."""
    if described.get("live"):
        return {"class": described["class"]}
    kept = ("import", "arguments") if "import" in described else ("name", "arguments")
    return {key: described[key] for key in kept}


def build_bundled(bundle: Bundle) -> nn.Module:
    """Build a bundle's architecture, which is one of the models by name."""
    arguments, name = bundle.architecture.get("arguments"), bundle.architecture.get("name")
    if not isinstance(arguments, dict) or bundle.features is None or bundle.target is None:
        raise WeightsError("bundle-incomplete", model=name)
    restored_arguments = {key: restored(value) for key, value in arguments.items()}
    return build_model(str(name), bundle.features.shape, bundle.target.outputs, restored_arguments, seed=0)
