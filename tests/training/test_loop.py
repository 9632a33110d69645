"""The loop: averages, modes, early stopping, and what happens when training fails."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
import weakref
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.processes import run_python
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import rushlight
from rushlight.data.sources.named.named import open_named
from rushlight.errors import ModelError, TrainingError, UsageError
from rushlight.options import check_options
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.runs.history import read_history, read_losses
from rushlight.runs.sessions import read_sessions
from rushlight.runs.summary import list_runs
from rushlight.training import loop
from rushlight.training.checkpoint import saver
from rushlight.training.checkpoint.checkpoint import read_checkpoint, state_digest, unpack
from rushlight.training.loop import Epoch, epochs
from rushlight.training.record.ledger import are_finite
from rushlight.training.setup.prepare import start_training
from rushlight.training.state import Training
from rushlight.training.step import runner

WEIGHTS = torch.tensor([1.0, 4.0, 0.5, 2.0, 1.0, 3.0, 0.1, 1.0, 1.0, 2.0])


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def two_layers() -> nn.Module:
    """A network whose outputs overflow when its weights are huge."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def digits(split: str = "train") -> tuple[Tensor, Tensor]:
    """The digits with ToTensor's scaling."""
    arrays = open_named("digits")
    inputs, labels = getattr(arrays, f"{split}_inputs"), getattr(arrays, f"{split}_targets")
    return torch.from_numpy(inputs).float() / 255, torch.from_numpy(labels)


def train(tmp_path: Path, model: Any = None, data: Any = "digits", **options: Any) -> tuple[list[Epoch], Training]:
    """Train without the plots and the bundle of a run's end."""
    chosen = {"epochs": 1, "normalize": "unit", "runs": tmp_path, "quiet": True, **options}
    with ExitStack() as stack:
        training = start_training(model or network(), data, check_options(chosen), stack)
        return list(epochs(training)), training


def lines(training: Training, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_history(training.folder) if line["kind"] == kind]


def saved_report(run: rushlight.Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    return content


# ── averages ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=WEIGHTS)], ids=["plain", "weighted"]
)
def test_an_epochs_losses_are_those_of_all_samples_at_once(tmp_path: Path, loss: nn.Module, accumulate: int) -> None:
    """With a learning rate of 0 nothing moves, so that the average over unequal batches has one right value."""
    model = network()
    options = {"optimizer": "SGD", "lr": 0.0, "batch_size": 50, "accumulate": accumulate, "loss": loss}
    (epoch,), training = train(tmp_path, model, **options)
    with torch.no_grad():
        trained, tested = (float(loss(model(x), y)) for x, y in (digits(), digits("test")))
    assert epoch.train_loss == pytest.approx(trained, rel=1e-6)
    assert epoch.test is not None
    assert epoch.test.loss == pytest.approx(tested, rel=1e-6)
    assert len(digits()[1]) % 50  # there is a partial batch
    assert lines(training, "epoch")[0]["train_loss"] == epoch.train_loss


def test_a_summed_loss_is_reported_for_each_sample(tmp_path: Path) -> None:
    model = network()
    options = {"optimizer": "SGD", "lr": 0.0, "batch_size": 50, "loss": nn.CrossEntropyLoss(reduction="sum")}
    (epoch,), training = train(tmp_path, model, **options)
    with torch.no_grad():
        x, y = digits()
        mean = float(nn.functional.cross_entropy(model(x), y))
    assert epoch.train_loss == pytest.approx(mean, rel=1e-6)
    assert read_losses(training.folder)[0] == pytest.approx(50 * mean, rel=0.1)  # a step's loss is as torch gives it


def test_lines_of_history_stand_at_fixed_steps_with_the_mean_since_the_last(tmp_path: Path) -> None:
    weighted = nn.CrossEntropyLoss(weight=WEIGHTS)
    _, training = train(tmp_path, epochs=2, batch_size=6, loss=weighted, optimizer="SGD", lr=0.01)
    steps = lines(training, "steps")
    assert [(line["epoch"], line["step"], line["samples"]) for line in steps] == [
        (1, 100, 600), (1, 200, 1200), (2, 340, 600), (2, 440, 1200)
    ]  # fmt: skip
    losses = np.array(read_losses(training.folder), dtype=np.float64)
    assert len(losses) == 480
    order = torch.randperm(len(digits()[1]), generator=torch.Generator().manual_seed(1_000_003)).numpy()
    weights = WEIGHTS[digits()[1][order]].numpy()[:1200].reshape(200, 6).sum(1)
    assert steps[1]["loss"] == pytest.approx(np.average(losses[100:200], weights=weights[100:]), rel=1e-5)


def test_an_epoch_tells_its_number_steps_rate_and_whether_it_is_the_best(tmp_path: Path) -> None:
    done, training = train(tmp_path, epochs=3, optimizer="SGD", lr=0.01)
    assert [epoch.number for epoch in done] == [1, 2, 3]
    assert [epoch.step for epoch in done] == [23, 46, 69]
    assert {epoch.learning_rate for epoch in done} == {0.01}
    best = max(done, key=lambda epoch: (epoch.test.accuracy, -epoch.test.loss) if epoch.test else (0, 0))
    assert [epoch for epoch in done if epoch.is_best][-1] == best
    assert training.state["best"]["epoch"] == best.number


# ── modes and parameters ─────────────────────────────────────────────────────────────────────────────────────


class Watched(nn.Module):
    """A network that notes in which mode it was used."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.net(x)


def test_steps_run_in_train_mode_tests_in_eval_mode_and_the_end_is_eval_mode(tmp_path: Path) -> None:
    model = Watched().eval()
    run = rushlight.train(model, "digits", epochs=2, batch_size=500, runs=tmp_path, quiet=True)
    told = "".join("T" if mode else "e" for mode in model.modes)
    assert told.startswith("eTTTeTTTe")
    assert "T" not in told[9:]
    assert not run.model.training


def test_between_two_epochs_a_loop_of_ones_own_may_change_the_mode(tmp_path: Path) -> None:
    model = Watched()
    with ExitStack() as stack:
        options = check_options({"epochs": 2, "batch_size": 2000, "runs": tmp_path, "quiet": True})
        training = start_training(model, "digits", options, stack)
        for _ in epochs(training):
            assert model.training
            model.eval()
    assert model.modes == [False, True, False, True, False]


def test_frozen_parameters_stay_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    model[1].requires_grad_(False)
    before = copy.deepcopy(model)
    train(tmp_path, model)
    assert torch.equal(model[1].weight, before[1].weight)
    assert not torch.equal(model[3].weight, before[3].weight)


def test_lazy_layers_take_their_shape_from_the_data(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(10))
    live = torch.optim.SGD(model.parameters(), lr=0.1)
    for optimizer in ("SGD", live):
        (epoch,), _ = train(tmp_path, model, optimizer=optimizer)
        assert epoch.test is not None
        assert epoch.test.n == 360
    assert model[1].in_features == 64


def test_lazy_layers_that_nothing_can_shape_are_named(tmp_path: Path) -> None:
    data = [{"x": torch.zeros(4), "y": 0}] * 8
    with pytest.raises(ModelError, match=r'lazy layer of "0\.weight"') as caught:
        train(
            tmp_path,
            nn.Sequential(nn.LazyLinear(8)),
            Listed(data),
            objective=lambda model, batch: model(batch["x"]).sum(),
        )
    assert caught.value.key == "lazy-layer"


class Listed(torch.utils.data.Dataset[Any]):
    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def test_the_weights_of_lazy_layers_depend_on_the_seed_alone(tmp_path: Path) -> None:
    (tmp_path / "lazy net.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(nn.Flatten(), nn.LazyLinear(10))\n"
    )
    digests = []
    for seed, stream in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(stream)
        options = {"seed": seed, "optimizer": "SGD", "lr": 0.0}
        digests.append(state_digest(train(tmp_path, f"{tmp_path / 'lazy net.py'}:Net", **options)[1].model))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda model: torch.optim.SGD(network().parameters(), lr=0.1), "foreign-optimizer"),
        (
            lambda model: torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=0.1),
            "foreign-optimizer",
        ),
        (lambda model: torch.optim.LBFGS(model.parameters()), "needs-closure"),
        (lambda model: torch.optim.SGD(model.requires_grad_(False).parameters(), lr=0.1), "nothing-trains"),
    ],
)
def test_a_live_optimizer_that_would_train_nothing_is_refused(make: Any, key: str, tmp_path: Path) -> None:
    model = network()
    with pytest.raises(UsageError) as caught:
        train(tmp_path, model, optimizer=make(model))
    assert caught.value.key == key


# ── a loop of one's own ──────────────────────────────────────────────────────────────────────────────────────


def test_leaving_the_loop_early_keeps_what_was_trained(tmp_path: Path) -> None:
    training = rushlight.epochs(network(), "digits", epochs=9, runs=tmp_path, quiet=True)
    for epoch in training:
        if epoch.number == 2:
            break
    training.close()
    training.close()
    run = training.run
    assert run.summary()["epochs"] == 2
    assert run.summary()["state_sha256"] == state_digest(run.model)
    assert (run.folder / "model" / "model.json").is_file()
    assert next(training, None) is None
    assert list_runs(tmp_path)[0].status == "finished"


def test_an_error_in_a_loop_of_ones_own_leaves_a_finished_run(tmp_path: Path) -> None:
    def mistaken() -> None:
        for epoch in rushlight.epochs(network(), "digits", epochs=9, runs=tmp_path, quiet=True):
            raise ZeroDivisionError(epoch.number)

    with pytest.raises(ZeroDivisionError):
        mistaken()
    (summary,) = list_runs(tmp_path)
    assert (summary.status, summary.epochs_done) == ("finished", 1)


# ── early stopping ───────────────────────────────────────────────────────────────────────────────────────────


def spoiled(model: nn.Module) -> dict[str, Any]:
    """An optimizer and a scheduler that learn for two epochs, and then climb where they descended."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    return {"optimizer": optimizer, "schedule": LambdaLR(optimizer, lambda epoch: 1.0 if epoch < 2 else -1.0)}


def test_early_stopping_waits_its_epochs_and_keeps_the_best_weights(tmp_path: Path) -> None:
    model = network()
    options = {"epochs": 20, "early_stopping": 2, "runs": tmp_path, "quiet": True, "name": "spoiled"}
    training = rushlight.epochs(model, "digits", **options, **spoiled(model))
    seen = [(epoch.is_best, state_digest(model)) for epoch in training]
    assert [is_best for is_best, _ in seen] == [True, True, False, False]
    run = training.run
    assert state_digest(run.model) == run.summary()["state_sha256"] == seen[1][1]
    saved = rushlight.open_run("spoiled", network(), runs=tmp_path)
    assert state_digest(saved.model) == seen[1][1]
    report = saved_report(run)
    assert report["n"] == 360  # it is of the test split, and of these weights
    assert saved.test().to_json() == report


def test_a_run_that_was_killed_before_it_finished_still_ends_with_the_best_weights(tmp_path: Path) -> None:
    """As after a power cut between the last checkpoint and the report."""
    model = network()
    _, training = train(
        tmp_path, model, epochs=20, early_stopping=2, normalize="auto", name="spoiled", **spoiled(model)
    )
    assert training.state["epochs_since_best"] == 2
    again = network(seed=5)
    run = rushlight.resume("spoiled", again, runs=tmp_path, quiet=True, **spoiled(again))
    (*_, best) = [line for line in lines(training, "epoch") if line["epoch"] == 2]
    assert run.history[-1]["step"] == best["step"]
    assert run.report is not None
    assert run.report.n == 360
    assert run.summary()["state_sha256"] == state_digest(again)
    assert state_digest(again) != state_digest(model)  # which has the last epoch's


def test_without_a_test_split_validation_decides_all_the_same(tmp_path: Path) -> None:
    model = network()
    data = (digits()[0].numpy(), digits()[1].numpy())
    done, _ = train(tmp_path, model, data, test_fraction=0.0, epochs=20, early_stopping=2, **spoiled(model))
    assert all(epoch.test is None and epoch.validation is not None for epoch in done)
    assert len(done) < 20


# ── checkpoints on the way ──


def clocked(monkeypatch: pytest.MonkeyPatch, cost: float) -> tuple[list[float], list[str]]:
    """Let every step take one second of a clock of ours, and every checkpoint `cost`; return the clock and what is saved."""
    now, saved = [0.0], []
    take, write, seed = saver.take_snapshot, saver.Saver.write, runner.step_seed

    def taking(training: Training) -> Any:
        now[0] += cost
        snapshot = take(training)
        saved.append(snapshot.name)
        return snapshot

    def writing(self: saver.Saver, after: float = 0.0) -> None:
        self.hurry.set()  # its pauses are of the real clock
        write(self)
        if self.thread is not None:
            self.thread.join()

    def ticking(*arguments: int) -> int:
        now[0] += 1.0
        return seed(*arguments)

    monkeypatch.setattr(saver, "take_snapshot", taking)
    monkeypatch.setattr(saver.Saver, "write", writing)
    monkeypatch.setattr(runner, "step_seed", ticking)
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0], time=time.time)
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(saver, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now, saved


@pytest.mark.parametrize(
    ("cost", "steps"), [(0.1, [30, 60, 72]), (1.0, [30, 72]), (0.0, [30, 60, 72])], ids=["cheap", "dear", "free"]
)
def test_dear_checkpoints_are_written_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float, steps: list[int]
) -> None:
    _, saved = clocked(monkeypatch, cost)
    (epoch,), training = train(tmp_path, batch_size=20)
    assert epoch.step == 72
    assert [int(name.removesuffix("-mid-epoch")) for name in saved] == steps
    assert [name.endswith("-mid-epoch") for name in saved] == [True] * (len(steps) - 1) + [False]
    content, tensors = read_checkpoint(list_checkpoints(training.folder)[-2])
    seconds = unpack(content["state"], tensors)["seconds"]  # a killed run's epoch goes on counting from here
    assert seconds == pytest.approx(steps[-2] + cost * (len(steps) - 2))


def test_short_epochs_are_copied_only_when_they_are_written_or_are_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, saved = clocked(monkeypatch, cost=1.0)  # so 30 s pass from one writing to the next
    done, _ = train(
        tmp_path, batch_size=500, epochs=25, optimizer="SGD", lr=1e-30
    )  # nothing is learnt: the first is the best
    assert [epoch.number for epoch in done if epoch.is_best] == [1]
    assert [int(name) // 3 for name in saved] == [1, 10, 19, 25]


def test_whoever_waits_for_a_checkpoint_waits_for_the_disk_and_not_for_the_pause_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "CHECKPOINT_SHARE", 1e-9)  # so dear that the pause is as long as can be
    began = time.monotonic()
    _, training = train(tmp_path, on_nan="rollback")  # saved before the epoch, and after it
    assert time.monotonic() - began < saver.CHECKPOINT_SECONDS
    assert len(list_checkpoints(training.folder)) == 2


def test_an_epochs_seconds_count_both_sides_of_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, _ = clocked(monkeypatch, 0.0)

    def interrupting(model: nn.Module) -> nn.Module:
        steps = iter(range(1, 100))
        model.register_forward_pre_hook(
            lambda *_: signal.raise_signal(signal.SIGINT) if torch.is_grad_enabled() and next(steps) == 12 else None
        )
        return model

    options: dict[str, Any] = {"batch_size": 20, "epochs": 2, "quiet": True, "runs": tmp_path, "name": "it"}
    with pytest.raises(KeyboardInterrupt):
        rushlight.train(interrupting(network()), "digits", **options)
    now[0] += 1000
    run = rushlight.resume("it", network(), runs=tmp_path, quiet=True)
    assert [line["seconds"] for line in run.history if line["kind"] == "epoch"] == [72.0, 72.0]


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_finite_names_step_epoch_samples_and_what_is_kept(tmp_path: Path) -> None:
    model = two_layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = LambdaLR(optimizer, lambda epoch: 1.0 if epoch < 1 else 1e30)
    with pytest.raises(TrainingError) as caught:
        rushlight.train(
            model, "digits", optimizer=optimizer, schedule=schedule, batch_size=300, normalize="unit", seed=3, runs=tmp_path,
            quiet=True,
        )  # fmt: skip
    error = caught.value
    assert error.exit_code == 1
    assert error.values["epoch"] == 2
    (run,) = [folder for folder in tmp_path.iterdir() if folder.is_dir()]
    losses = read_losses(run)
    first_bad = next(number for number, loss in enumerate(losses, start=1) if not np.isfinite(loss))
    assert error.values["step"] == first_bad
    steps = -(-len(digits()[1]) // 300)
    window = first_bad - 1 - steps
    order = torch.randperm(len(digits()[1]), generator=torch.Generator().manual_seed(3 + 2 * 1_000_003)).tolist()
    named = ", ".join(map(str, order[window * 300 : window * 300 + 8]))
    assert f"samples {named} … (" in error.problem
    assert f"The state after step {steps} is kept in {run / 'checkpoints' / f'{steps:08d}'}." in error.problem
    assert list_checkpoints(run)[-1].name == f"{steps:08d}"
    (summary,) = list_runs(tmp_path)
    assert summary.status == "failed"
    assert read_sessions(run)[-1]["message"] == error.problem


def test_weights_that_the_last_step_made_infinite_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r'weights of "1\.(weight|bias)" are not finite after step 1 \(epoch 1\)'
    ) as caught:
        rushlight.train(
            network(), "digits", optimizer="SGD", lr=3e38, batch_size=2000, loss=steep, runs=tmp_path, quiet=True
        )
    assert caught.value.key == "weights-not-finite"
    assert "No step was saved before it." in caught.value.problem
    (summary,) = list_runs(tmp_path)
    assert summary.status == "failed"


def steep(outputs: Tensor, labels: Tensor) -> Tensor:
    return 1000 * nn.functional.cross_entropy(outputs, labels)


@given(
    numbers=st.lists(st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38]), max_size=5)
)
def test_numbers_are_finite_where_each_one_is_however_large_their_sum(numbers: list[float]) -> None:
    assert are_finite(torch.tensor(numbers)) == all(map(math.isfinite, numbers))


def test_what_a_step_puts_out_is_let_go_before_the_next_step_begins(tmp_path: Path) -> None:
    kept: list[weakref.ref[Tensor]] = []
    alive = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.requires_grad:  # it is no test
            alive.append(sum(reference() is not None for reference in kept))
            kept.append(weakref.ref(outputs))
        return nn.functional.cross_entropy(outputs, labels)

    train(tmp_path, batch_size=20, loss=loss)
    assert alive == [0] * 72


def test_the_command_leaves_with_1_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    options = ("--hidden", "8", "--optimizer", "SGD", "--lr", "1e30", "--json", "--runs", tmp_path)
    done = run_python(["-m", "rushlight", "train", "mlp", "digits", *options])
    assert done.returncode == 1, done.stderr
    assert "The loss became" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or "error" in json.loads(done.stdout)
    (summary,) = list_runs(tmp_path)
    assert summary.status == "failed"


class NanInTests(nn.Module):
    """A network that is well in training and gives nothing but NaN in tests."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (1.0 if self.training else torch.nan)


def test_a_test_that_gives_nan_ends_nothing_and_is_saved_as_it_is(tmp_path: Path) -> None:
    model = NanInTests()
    done, training = train(
        tmp_path, model, objective=lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]), epochs=2
    )
    assert [epoch.is_best for epoch in done] == [True, False]
    assert lines(training, "epoch")[1]["test"]["loss"] is None
    assert len(list_checkpoints(training.folder)) == 2


def test_samples_are_unknown_where_the_order_is_a_loaders_own(tmp_path: Path) -> None:
    x, y = digits()
    data = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(data, 64, sampler=torch.utils.data.RandomSampler(data, num_samples=200))
    with pytest.raises(TrainingError, match="samples unknown: the order is the loader's own"):
        train(tmp_path, two_layers(), loader, optimizer="SGD", lr=1e30)


def test_images_that_go_through_convolutions_are_tested_fewer_at_a_time_unless_more_are_trained() -> None:
    split: Any = None  # what is not in memory is no table
    convolutional = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))

    def tested(batch_size: int, model: nn.Module) -> int:
        recipe: Any = SimpleNamespace(batch_size=batch_size)
        return loop.test_batch_size(recipe, split, model)

    assert [tested(size, network()) for size in (16, 64, 256, 1000)] == [64, 256, 512, 1000]
    assert [tested(size, convolutional) for size in (16, 64, 256, 1000)] == [64, 128, 256, 1000]
