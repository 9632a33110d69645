"""A run, afterwards: how it is finished, and the handle with which its model is tested, used and saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import nn

from rushlight.console import fetch_progress
from rushlight.data import Data, DataOptions, FeatureSpec, Split, TargetSpec, open_like, open_source, retarget
from rushlight.device import choose_device
from rushlight.errors import RunError, UsageError
from rushlight.export import (
    Bundle,
    Predictions,
    build_bundled,
    load_bundle,
    load_state,
    predict,
    read_bundle,
    write_bundle,
    write_weights,
)
from rushlight.report import Report
from rushlight.runs import inexact_resumes, read_history, read_json, read_losses, read_recipe
from rushlight.training import (
    Objective,
    Options,
    Recipe,
    Training,
    build_imported,
    check_options,
    check_rebuildable,
    data_choices,
    evaluate,
    evaluation_size,
    latest_checkpoint,
    make_objective,
    named_loss,
    read_model_state,
    rebuild_model,
    recipe_from_json,
    save_bundle,
    save_report,
    task_of_loss,
    test_batch_size,
)


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
        opening = replace(DataOptions.from_json(self.recipe.data["options"]), **data_choices(options))
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
        size = test_batch_size(self.recipe, split, model) if training is None else evaluation_size(training, split)
        report, outcome = evaluate(model, split, self._objective(loss), target, size)
        save_report(self.folder, report, outcome)
        return report

    def _open(self) -> Data:
        """Open the run's data again, as its recipe says, with targets as its loss wants them."""
        data = open_source(*self._source(), DataOptions.from_json(self.recipe.data["options"]), fetch_progress())
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
            **({"validation": last["validation"]} if last and "validation" in last else {}),
            "test": finished.get("test", last["test"] if last else None),
            "state_sha256": finished.get("state_sha256"),
            "inexact": inexact_resumes(self.folder),
            "ways": [
                {name: line[name] for name in ("step", "way", "message")}
                for line in lines
                if line.get("event") == "way"
            ],
        }
