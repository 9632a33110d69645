"""The handle of a run: testing and using its model later, and what finishing a run does when something goes wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rushlight
from rushlight.cli import main
from rushlight.data.sources.named.named import open_named
from rushlight.errors import RunError, StorageError, TrainingError, UsageError, WeightsError
from rushlight.training.checkpoint.checkpoint import best_checkpoint

SMALL: dict[str, Any] = {"model_arguments": {"hidden": (8,)}, "quiet": True}


def two_classes(folder: Path) -> Path:
    """A file with two classes that a line tells apart."""
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    np.savez(folder / "two.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    return folder / "two.npz"


def test_a_run_with_a_binary_loss_is_tested_again_with_the_same_figures(tmp_path: Path) -> None:
    run = rushlight.train("mlp", two_classes(tmp_path), loss="bce", epochs=4, runs=tmp_path, **SMALL)
    assert run.report is not None
    again = rushlight.open_run(run.folder).test()
    assert again == run.report
    assert set(rushlight.open_run(run.folder).predict(np.zeros((2, 3), np.float32)).classes) == {"0", "1"}


def test_an_objective_of_ones_own_may_call_the_model_as_it_likes(tmp_path: Path) -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Linear(64, 4), nn.Linear(4, 64)

        def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            code = self.inside(x.flatten(1) * scale)
            return self.outside(code), code

    def restore(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        restored, code = model(batch[0], torch.tensor(1.0))
        return nn.functional.mse_loss(restored, batch[0].flatten(1)) + 1e-3 * code.square().mean()

    run = rushlight.train(Autoencoder(), "digits", objective=restore, epochs=2, runs=tmp_path, quiet=True)
    assert run.report is not None
    assert run.report.task is None
    assert run.report.loss == pytest.approx(run.summary()["test"]["loss"])
    assert run.losses[-1] < run.losses[0]


def test_test_data_given_by_name_is_found_again(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", test_data="digits", epochs=1, runs=tmp_path, **SMALL)
    assert rushlight.open_run(run.folder).test() == run.report


def test_a_plain_live_loss_of_torch_is_as_good_as_its_name(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", loss=nn.CrossEntropyLoss(), epochs=1, runs=tmp_path, **SMALL)
    assert rushlight.open_run(run.folder).test() == run.report


def test_a_live_loss_with_settings_has_to_be_given_again(tmp_path: Path) -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    run = rushlight.train("mlp", "digits", loss=loss, epochs=1, runs=tmp_path, **SMALL)
    opened = rushlight.open_run(run.folder)
    with pytest.raises(RunError, match=r"Pass it again: run.test\(loss=my_loss\)"):
        opened.test()
    assert opened.test(loss=loss) == run.report


def test_an_unfinished_run_is_tested_and_predicts_from_its_newest_checkpoint(tmp_path: Path) -> None:
    training = rushlight.epochs("mlp", "digits", epochs=3, runs=tmp_path, name="half", optimizer="SGD", lr=0.1, **SMALL)
    first = next(training).test
    training.run._training.optimizer.param_groups[0]["lr"] = 1e30  # type: ignore[union-attr]
    with pytest.raises(TrainingError):  # the second epoch diverges
        next(training)
    run = rushlight.open_run("half", runs=tmp_path)
    assert not (run.folder / "model").exists()
    assert run.test() == first
    assert len(run.predict(open_named("digits").test_inputs)) == 360


class Tight(nn.Module):
    """A network in which no more than a few samples have room at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise MemoryError
        outputs: Tensor = self.net(x)
        return outputs


def test_a_run_whose_memory_ran_out_is_tested_at_its_end_with_what_fitted_in_training(tmp_path: Path) -> None:
    training = rushlight.epochs(Tight(16), "digits", epochs=1, batch_size=64, name="it", runs=tmp_path, quiet=True)
    last = next(training).test
    training.abandon(KeyboardInterrupt())  # after its last epoch, before its end
    run = rushlight.resume("it", Tight(16), runs=tmp_path, quiet=True)
    assert run.report == last
    assert run.test() == last


def test_unknown_options_of_test_are_refused(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=1, runs=tmp_path, **SMALL)
    with pytest.raises(UsageError, match="nonsense"):
        run.test(nonsense=3)  # type: ignore[call-arg]


@pytest.mark.plots
def test_a_plot_that_fails_costs_the_run_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("no fonts here")

    monkeypatch.setattr("rushlight.report.plots.write_loss_plot", broken)
    run = rushlight.train("mlp", "digits", epochs=1, runs=tmp_path, **SMALL)
    assert run.history[-1]["event"] == "finished"
    assert rushlight.open_run(run.folder).test() == run.report


def test_a_damaged_best_checkpoint_is_named_and_the_last_weights_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**SMALL, "quiet": False}
    training = rushlight.epochs(
        "mlp", "digits", epochs=4, early_stopping=9, keep_epochs=True, optimizer="SGD", lr=0.3, runs=tmp_path, **options
    )
    for epoch in training:
        if epoch.number == 2:
            training.run._training.optimizer.param_groups[0]["lr"] = 50.0  # type: ignore[union-attr]  # worse from here
        if epoch.number == 3:
            assert not epoch.is_best
            deadline = time.monotonic() + 30
            while best_checkpoint(training.run.folder, training.run._training.state) is None:  # type: ignore[union-attr]
                assert time.monotonic() < deadline  # it is written beside the training
                time.sleep(0.01)
            best = best_checkpoint(training.run.folder, training.run._training.state)  # type: ignore[union-attr]
            assert best is not None
            (best / "state.safetensors").write_bytes(b"damaged")
    said = " ".join(capsys.readouterr().out.split())
    assert "damaged" in said
    assert training.run.history[-1]["event"] == "finished"
    assert (training.run.folder / "model" / "model.json").is_file()


def test_going_on_with_changed_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
    Path("net.py").write_text(source)
    run = rushlight.train("net.py:Net", "digits", epochs=1, schedule="constant", runs=tmp_path, quiet=True)
    Path("net.py").write_text(source + "\n# and more\n")
    with pytest.raises(RunError, match="is not what it was when the run began"):
        rushlight.resume(run.folder, epochs=2, quiet=True)
    assert rushlight.open_run(run.folder, "net.py:Net").test() == run.report


def test_a_bundle_without_its_arguments_says_so(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=1, runs=tmp_path, **SMALL)
    described = json.loads((run.folder / "model" / "model.json").read_text())
    del described["architecture"]["arguments"]
    (run.folder / "model" / "model.json").write_text(json.dumps(described))
    with pytest.raises(WeightsError, match="with which arguments"):
        rushlight.load(run.folder / "model")


def test_an_iterator_that_never_began_leaves_no_finished_run(tmp_path: Path) -> None:
    training = rushlight.epochs("mlp", "digits", epochs=1, runs=tmp_path, **SMALL)
    training.close()
    assert not (training.run.folder / "model").exists()
    assert all(line.get("event") != "finished" for line in training.run.history)


def test_a_saved_bundle_keeps_the_figure_of_the_last_test(tmp_path: Path) -> None:
    run = rushlight.train("mlp", "digits", epochs=1, runs=tmp_path, **SMALL)
    assert run.report is not None
    saved = rushlight.open_bundle(run.save(tmp_path / "bundle"))
    assert saved.bundle.provenance["figure"] == {"name": "accuracy", "value": run.report.accuracy}
    assert saved.classes == tuple("0123456789")


def test_bfloat16_trains_with_float32_parameters_where_the_hardware_has_it(tmp_path: Path) -> None:
    from rushlight.device import precision_refusal

    if refusal := precision_refusal("bfloat16", torch.device("cpu")):
        with pytest.raises(UsageError, match="bfloat16 does not pay here"):
            rushlight.train("mlp", "digits", epochs=1, precision="bfloat16", runs=tmp_path, **SMALL)
        pytest.skip(refusal)
    run = rushlight.train("mlp", "digits", epochs=4, precision="bfloat16", runs=tmp_path, quiet=True)
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    assert run.report is not None
    assert run.report.accuracy is not None
    assert run.report.accuracy > 0.9
    exact = rushlight.train("mlp", "digits", epochs=4, runs=tmp_path, quiet=True)
    assert not np.array_equal(run.losses, exact.losses)  # it really computed in bfloat16


def test_a_run_that_may_only_be_read_is_tested_and_the_report_is_shown_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise StorageError("no-permission", path="report.json")

    run = rushlight.train("mlp", "digits", epochs=1, runs=tmp_path, name="it", **SMALL)
    monkeypatch.setattr("rushlight.training.reopen.save_report", refuse)
    with pytest.warns(UserWarning, match="may not write here"):
        assert rushlight.open_run(run.folder).test() == run.report
    with pytest.raises(SystemExit) as left:
        main(["test", "it", "--runs", str(tmp_path)])
    said = capsys.readouterr()
    assert left.value.code == 0
    assert "accuracy" in said.out.lower()
    assert "may not write here" in said.err
