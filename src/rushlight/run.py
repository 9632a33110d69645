"""The handle of a run on disk, with which its model is tested, used and saved."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from rushlight.console import fetch_progress
from rushlight.data import FeatureSpec, TargetSpec, with_tokenizer
from rushlight.device import choose_device
from rushlight.errors import RunError
from rushlight.export import Bundle, Predictions, predict, predict_batches, read_bundle, save_model
from rushlight.options import plain_options
from rushlight.report import Report
from rushlight.runs import (
    inexact_resumes,
    read_environment,
    read_history,
    read_losses,
    read_recipe,
    read_report,
)
from rushlight.texts import Note
from rushlight.training import (
    Recipe,
    Training,
    recipe_from_json,
    reopen_model,
    reopen_specs,
    save_bundle,
    test_run,
)


class Run:
    """One run on disk: its model to test, use, save and look into. `folder` is the truth; everything is read from it."""

    def __init__(self, folder: Path, training: Training | None = None, model: nn.Module | str | None = None) -> None:
        self.folder = folder
        self._training = training
        self._model = training.model if training is not None else None
        if model is not None:
            self._model = reopen_model(folder, self.recipe, model, fetch_progress())

    def __repr__(self) -> str:
        return f'<rushlight.Run "{self.name}">'

    def _repr_html_(self) -> str:
        from rushlight.board import run_html

        shown: str = run_html(self.folder)
        return shown

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.folder.name

    @property
    def recipe(self) -> Recipe:
        """Everything that was chosen."""
        return recipe_from_json(read_recipe(self.folder))

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of the history; their kinds are listed in `rushlight.runs.history`."""
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
            return Report.from_json(read_report(self.folder))
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise RunError("run-file-damaged", path=path, reason=Note("runs.no-report", reason=error)) from error

    @property
    def notes(self) -> list[str]:
        """The decisions that were announced when the run started, a sentence each."""
        notes: list[str] | None = read_environment(self.folder).get("data_notes")
        if notes is None:
            reason = Note("runs.lacks", name="data_notes")
            raise RunError("run-file-damaged", path=self.folder / "environment.json", reason=reason)
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
            self._model = reopen_model(self.folder, self.recipe, fetch=fetch_progress())
        return self._model

    def test(self, data: Any = None, **options: Any) -> Report:
        """Test the model on the run's own test split, or on other data, prepared as its own was; keep the report, or warn.

        Other data is tested on its test split where it has one, else on all of it. The options are those of `open_data`,
        and `loss` or `objective`, where the run was trained with a live one.

        Raises:
            UsageError: there is nothing to test on.
            DataError: the other data does not fit the model.
        """
        given = plain_options(options, "test")
        fetch = fetch_progress()
        return test_run(self.folder, self.recipe, self.model, *self._specs, data, given, self._training, fetch)

    def predict(self, inputs: Any, batch_size: int = 512, *, tokenizer: Any = None) -> Predictions:
        """Predict from arrays, tensors, image files, tables, a DataLoader, or a tuple or dict of several inputs; NumPy out.

        A model of texts takes a text or a sequence of texts too, and a `Path` to a text file. A function that was the
        `tokenizer` of the training is given again, once Python has been left. A model of a series gets its last rows.

        Raises:
            DataError: the inputs are not what the model takes; the message has expected and found.
        """
        features, target = self._specs
        if tokenizer is not None and features is not None:
            features = with_tokenizer(features, tokenizer)
        device, _ = choose_device(self.recipe.device)
        if features is None or isinstance(inputs, DataLoader):
            return predict_batches(self.model.to(device), inputs, features, target)
        return predict(self.model.to(device), inputs, features, target, batch_size=batch_size)

    @cached_property
    def _specs(self) -> tuple[FeatureSpec | None, TargetSpec | None]:
        """The specs of inputs and targets; reading them checks the whole bundle, so that is done once."""
        if self._training is not None:
            return self._training.data.features, self._training.data.target
        return reopen_specs(self.folder, self.recipe, self.model, fetch_progress())

    def save(self, path: str | Path) -> Path:
        """Save the model by the path's ending, as `save_model` does; none is a folder (the bundle).

        A bundle saved in the middle of a loop has no graph; that of a finished run takes some seconds.
        """
        path = Path(path)
        if not path.suffix and self._training is not None and not (self.folder / "model").is_dir():
            save_bundle(path, self._training, self.report, self._training.state["step"])
        else:
            save_model(path, self.model, lambda: self.bundle, self.folder / "model")
        return path

    def eject(self, path: str | Path, model: str | None = None, *, force: bool = False) -> Note | None:
        """Write the run as one plain PyTorch script, which needs nothing of Rushlight and says in comments what it does.

        An exact run's script ends with the run's own weights, bit for bit, and says so; of any other run this returns why not.
        `model` names its class, as "net.py:Net", where this account did not train the run on this machine.

        Raises:
            UsageError: the run has something that the script cannot carry; all of it is named, and nothing is written. Or a file
                is at `path` that Rushlight did not write, or that was changed since: only with `force` it is replaced.
        """
        from rushlight.eject import write_script

        return write_script(self.folder, Path(path), model, force)

    def summary(self) -> dict[str, Any]:
        """Return the run's figures, as `--json` prints them."""
        epochs = [line for line in self.history if line["kind"] == "epoch"]
        events = [line for line in self.history if line["kind"] == "event"]
        last = epochs[-1] if epochs else {"step": 0, "epoch": 0, "train_loss": None, "test": None}
        finished: dict[str, Any] = next((line for line in reversed(events) if line["event"] == "finished"), {})
        return {
            "run": self.name,
            "folder": str(self.folder),
            "steps": last["step"],
            "epochs": last["epoch"],
            "seconds": sum(line["seconds"] for line in epochs),
            "train_loss": last["train_loss"],
            **({"validation": last["validation"]} if "validation" in last else {}),
            "test": finished.get("test", last.get("test")),
            "state_sha256": finished.get("state_sha256"),
            "inexact": inexact_resumes(self.folder),
            "ways": [
                {key: line.get(key) for key in ("step", "way", "message")} for line in events if line["event"] == "way"
            ],
        }
