"""Numbers that blow up and memory that runs out: what is left out, gone back to, or done in smaller pieces."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.processes import run_python
from torch import Tensor, nn

import rushlight
from rushlight.errors import RunError, TrainingError
from rushlight.runs.checkpoint_files import list_checkpoints
from rushlight.runs.history import read_history
from rushlight.training.checkpoint import saver
from rushlight.training.checkpoint.checkpoint import is_whole, read_checkpoint, unpack
from rushlight.training.record import ledger
from rushlight.training.step import runner
from rushlight.training.step.memory import split


class Net(nn.Module):
    """A small network with a buffer that each training pass changes, and what a test wants done on the way."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        layers = [nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12) if norm else nn.ReLU(), nn.Linear(12, 10)]
        self.net = nn.Sequential(*layers)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.bad_marks: frozenset[float] = frozenset()
        self.most = math.inf
        self.tight_from = 0  # the pass from which on no more than `most` samples fit

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
            if len(x) > self.most and int(self.passes) >= self.tight_from:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
        return self.net(x * 2)


def marked_data(bad: tuple[int, ...] = (), n: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, 64) and labels; the samples `bad` are finite themselves, but their squares are not."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(n, 64)).astype(np.float32)
    inputs[list(bad)] = 3e38
    return inputs, np.arange(n) % 10


def made(**arguments: Any) -> Net:
    torch.manual_seed(0)
    return Net(**arguments)


def train(runs: Path, model: nn.Module, data: Any, **options: Any) -> rushlight.Run:
    chosen: dict[str, Any] = {"epochs": 2, "batch_size": 16, "test_fraction": 0.0, "normalize": "none", "quiet": True}
    return rushlight.train(model, data, runs=runs, **{**chosen, **options})


def events(run: rushlight.Run, name: str) -> list[dict[str, Any]]:
    return [line for line in run.history if line.get("event") == name]


def batch_of(sample: int, epoch: int, n: int = 160) -> int:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1_000_003 * epoch)).tolist()
    return order.index(sample) // 16


def test_a_step_whose_numbers_blow_up_is_left_out_with_all_its_effects(tmp_path: Path) -> None:
    model = made()
    run = train(tmp_path, model, marked_data((7,)), on_nan="skip")
    left_out = events(run, "skipped")
    assert [line["step"] for line in left_out] == [batch_of(7, 1) + 1, 10 + batch_of(7, 2) + 1]
    assert "7" in left_out[0]["message"]
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    assert int(model.passes) == 18  # twenty steps, two of them left out with what they did to the buffer
    assert run.summary()["train_loss"] is not None
    assert len(run.losses) == 20


def test_a_gradient_that_is_not_finite_is_named_by_its_layer_while_the_loss_still_is(tmp_path: Path) -> None:
    steps = iter(range(1, 100))

    def objective(net: nn.Module, batch: Any) -> Tensor:
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        if next(steps) == 3:
            loss = loss + 0.0 * torch.sqrt(
                net.net[3].bias[0] - net.net[3].bias[0].detach()
            )  # its slope at 0 is infinite
        return loss

    run = train(tmp_path, made(), marked_data(), objective=objective, on_nan="skip", epochs=1)
    (line,) = events(run, "skipped")
    assert (line["step"], 'gradient of "net.3.bias"' in line["message"]) == (3, True)
    assert np.isfinite(run.losses).all()


def test_only_a_scale_that_fell_in_a_step_is_told_and_not_one_that_was_restored_between_two(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    def objective(net: nn.Module, batch: Any) -> Tensor:
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        if int(net.passes) == 3:
            loss.register_hook(lambda gradient: gradient * math.inf)  # the loss itself is finite
        return loss

    training = rushlight.epochs(
        made(), marked_data(), objective=objective, numerics="exact",
        runs=tmp_path, epochs=2, batch_size=16, test_fraction=0.0, normalize="none", quiet=True,
    )  # fmt: skip
    object.__setattr__(training._training, "scaler", scaler)  # as on a card in float16
    for epoch in training:
        if epoch.number == 1:
            scaler.load_state_dict({**scaler.state_dict(), "scale": 4.0})  # as a checkpoint does that is gone back to
    assert [line["step"] for line in events(training.run, "skipped")] == [3]
    assert scaler.get_scale() == 4.0


def test_steps_left_out_one_after_the_other_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, made(), marked_data(tuple(range(160))), on_nan="skip", epochs=5)
    assert caught.value.key == "all-skipped"


def test_a_rollback_goes_to_the_epochs_start_with_half_the_learning_rate_and_a_killed_run_does_the_same(
    tmp_path: Path,
) -> None:
    def objective(net: nn.Module, batch: Any) -> Tensor:  # too steep for the rate as it is, and not for the half of it
        rate = optimizers[-1].param_groups[0]["lr"]
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        is_bad = rate > 0.05 and int(net.passes) == 14
        return loss * math.inf if is_bad else loss

    optimizers: list[torch.optim.Optimizer] = []

    def parts() -> tuple[Net, dict[str, Any]]:
        model = made()
        optimizers.append(torch.optim.SGD(model.parameters(), lr=0.08))
        return model, {"objective": objective, "optimizer": optimizers[-1], "on_nan": "rollback"}

    model, options = parts()
    run = train(tmp_path, model, marked_data(), name="whole", **options)
    (event,) = events(run, "rolled-back")
    assert event["step"] == 10
    assert optimizers[-1].param_groups[0]["lr"] == 0.04
    assert len(run.losses) == 20
    assert np.isfinite(run.losses).all()
    model, options = parts()
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, model, marked_data(), name="cut", **{**options, "objective": dying(objective, 17)})
    model, options = parts()
    del options["on_nan"]
    resumed = rushlight.resume("cut", model, marked_data(), runs=tmp_path, quiet=True, **options)
    assert resumed.summary()["state_sha256"] == run.summary()["state_sha256"]
    assert resumed.losses.tobytes() == run.losses.tobytes()


def dying(objective: Any, at: int, error: Exception | None = None) -> Any:
    calls = iter(range(1, 100))

    def compute(net: nn.Module, batch: Any) -> Tensor:
        if next(calls) == at:
            raise error or RuntimeError("killed")
        return objective(net, batch)

    return compute


def names(run: Path) -> list[str]:
    return [folder.name for folder in list_checkpoints(run)]


def test_a_rollback_to_a_checkpoint_that_is_not_whole_deletes_nothing_and_shows_why_it_was_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "CHECKPOINT_SECONDS", 0.0)  # one at nearly every step
    monkeypatch.setattr(saver, "CHECKPOINT_SHARE", math.inf)
    monkeypatch.setattr(runner, "ROW_SECONDS", 0.0)  # and nothing is looked at within a row of them
    run = tmp_path / "it"

    def objective(net: nn.Module, batch: Any) -> Tensor:
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        if int(net.passes) != 16:
            return loss
        (run / "checkpoints" / "00000010" / "state.json").unlink()
        return loss * math.inf

    with pytest.raises(TrainingError) as caught:
        train(tmp_path, made(), marked_data(), objective=objective, on_nan="rollback", name="it")
    assert caught.value.key == "loss-not-finite"
    kept = list_checkpoints(run)
    assert not is_whole(run / "checkpoints" / "00000010")
    assert kept[-1].name.endswith("-mid-epoch")
    assert is_whole(kept[-1])


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_the_lines_before_a_loss_that_blew_up_are_written_whenever_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(ledger, "SHORTEST_LINE", 2)
    monkeypatch.setattr(ledger, "READ_EVERY", seconds)

    def objective(net: nn.Module, batch: Any) -> Tensor:
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        return loss * math.inf if int(net.passes) == 16 else loss

    with pytest.raises(TrainingError):
        train(tmp_path, made(), marked_data(), objective=objective, name="it")
    lines = [line["step"] for line in read_history(tmp_path / "it") if line["kind"] == "steps"]
    assert lines == [2, 4, 6, 8, 10, 12, 14]


def interrupted_at(at: int) -> Net:
    """A network in whose training pass number `at` a Ctrl-C comes."""
    model = made()
    model.register_forward_pre_hook(
        lambda net, _: signal.raise_signal(signal.SIGINT) if net.training and int(net.passes) + 1 == at else None
    )
    return model


def test_rollback_is_refused_inside_an_epoch_whose_beginning_is_not_there_and_nothing_is_changed(
    tmp_path: Path,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, interrupted_at(3), marked_data(), name="it", optimizer="SGD", lr=0.1)
    run = tmp_path / "it"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert names(run) == ["00000003-mid-epoch"]
    with pytest.raises(RunError) as caught:
        rushlight.resume("it", made(), marked_data(), runs=tmp_path, quiet=True, on_nan="rollback")
    assert caught.value.key == "no-way-back"
    assert "there are: none" in caught.value.advice
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    whole = train(tmp_path, made(), marked_data(), name="whole", optimizer="SGD", lr=0.1)
    resumed = rushlight.resume("it", made(), marked_data(), runs=tmp_path, quiet=True)
    assert resumed.losses.tobytes() == whole.losses.tobytes()


def test_rollback_can_be_asked_for_where_the_epochs_beginning_is_there_or_is_gone_back_to(tmp_path: Path) -> None:
    for name in ("there", "back"):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, interrupted_at(13), marked_data(), name=name, optimizer="SGD", lr=0.1, keep_epochs=True)
        assert names(tmp_path / name) == ["00000010", "00000013-mid-epoch"]
    options: dict[str, Any] = {"runs": tmp_path, "quiet": True, "on_nan": "rollback"}
    assert len(rushlight.resume("there", made(), marked_data(), **options).losses) == 20
    with pytest.raises(KeyboardInterrupt):  # at the third epoch's start
        rushlight.resume("back", interrupted_at(23), marked_data(), runs=tmp_path, quiet=True, epochs=3)
    (tmp_path / "back" / "checkpoints" / "00000020" / "SHA256SUMS").unlink()
    with pytest.raises(RunError, match="after step 20") as caught:
        rushlight.resume("back", made(), marked_data(), **options)
    assert "there are: 00000010)" in caught.value.advice
    assert len(rushlight.resume("back", made(), marked_data(), checkpoint="10", **options).losses) == 30


def blowing_up(net: nn.Module, batch: Any) -> Tensor:
    """Too steep once, in the second epoch, where a Ctrl-C comes too; what follows it does not."""
    loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
    if int(net.passes) != 14 or hasattr(net.mark, "is_past"):
        return loss
    net.mark.is_past = True
    if net.is_interrupted:
        signal.raise_signal(signal.SIGINT)
    return loss * math.inf


@pytest.mark.parametrize("is_late", [False, True], ids=["in the step that blew up", "while it is rolled back"])
def test_a_ctrl_c_beside_a_rollback_is_not_lost(is_late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rushlight.training import loop

    def network(is_interrupted: bool) -> Net:
        model = made()
        model.is_interrupted = is_interrupted
        model.mark = threading.local()  # an attribute of the model itself is rolled back too
        return model

    options: dict[str, Any] = {"objective": blowing_up, "optimizer": "SGD", "lr": 0.1, "on_nan": "rollback"}
    whole = train(tmp_path, network(False), marked_data(), name="whole", **options)
    roll_back = loop.roll_back

    def signalled(*arguments: Any) -> None:  # a moment that nothing of the user's own is called in
        signal.raise_signal(signal.SIGINT)
        roll_back(*arguments)

    if is_late:
        monkeypatch.setattr(loop, "roll_back", signalled)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, network(not is_late), marked_data(), name="it", **options)
    assert names(tmp_path / "it") == ["00000000", "00000010"]
    monkeypatch.setattr(loop, "roll_back", roll_back)
    resumed = rushlight.resume("it", network(False), marked_data(), runs=tmp_path, quiet=True, objective=blowing_up)
    assert resumed.losses.tobytes() == whole.losses.tobytes()
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_a_run_that_blows_up_time_and_again_is_not_rolled_back_for_ever(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="The loss became"):
        train(tmp_path, made(), marked_data((7,)), on_nan="rollback")


def test_a_stopped_run_names_both_batches_that_may_have_done_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, made(), marked_data((7,)))
    first, window = batch_of(7, 1), int(caught.value.values["step"]) - 1  # type: ignore[call-overload]
    assert window in (first, first + 1)
    assert "or by the gradient of step" in caught.value.problem or not first


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_that_runs_out_is_met_with_smaller_pieces_of_the_same_effective_batch(tmp_path: Path) -> None:
    plain, tight = made(), made()
    tight.most = 5
    whole = train(tmp_path, plain, marked_data(), optimizer="SGD", lr=0.1, epochs=1)
    run = train(tmp_path, tight, marked_data(), optimizer="SGD", lr=0.1, epochs=1, name="tight")
    assert [line["message"].split(": from")[0] for line in events(run, "micro-batch")] == [
        "Memory ran out at step 1"
    ] * 2  # 16 -> 8 -> 4
    content, tensors = read_checkpoint(list_checkpoints(run.folder)[-1])
    assert unpack(content["state"], tensors)["micro_batch"] == 4
    for one, other in zip(plain.parameters(), tight.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    np.testing.assert_allclose(run.losses, whole.losses, rtol=1e-5)
    assert int(tight.passes) == 40  # ten steps of four pieces; the passes that failed are taken back


@pytest.mark.parametrize("at", [14, 11], ids=["losses unread", "a first step, whose state is saved already"])
def test_a_run_whose_memory_ran_out_is_saved_with_all_its_losses_when_that_step_is_done(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "READ_EVERY", math.inf)  # no loss is read before somebody needs it

    def network() -> Net:
        model = made()
        model.most, model.tight_from = 8, at
        return model

    def objective(net: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    options: dict[str, Any] = {"optimizer": "SGD", "lr": 0.1, "keep_epochs": True}
    whole = train(tmp_path, network(), marked_data(), name="whole", objective=objective, **options)
    killed = ArithmeticError("killed")  # which nobody tries to explain
    with pytest.raises(
        ArithmeticError, match="killed"
    ):  # two steps later; that step has three passes, the next one two
        train(tmp_path, network(), marked_data(), name="cut", objective=dying(objective, at + 5, killed), **options)
    assert names(tmp_path / "cut") == ["00000010", f"{at:08d}-mid-epoch"]
    content, tensors = read_checkpoint(list_checkpoints(tmp_path / "cut")[-1])
    assert unpack(content["state"], tensors)["micro_batch"] == 8
    assert content["losses_bytes"] + len(tensors["losses_tail"]) == 4 * at
    resumed = rushlight.resume("cut", network(), marked_data(), runs=tmp_path, quiet=True, objective=objective)
    assert resumed.losses.tobytes() == whole.losses.tobytes()
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert told(resumed) == told(whole)


def told(run: rushlight.Run) -> list[dict[str, Any]]:
    """The history less its times, and less the run's name."""
    return [
        {key: value for key, value in line.items() if key not in ("time", "seconds", "run")} for line in run.history
    ]


def test_batch_normalisation_is_warned_of_when_a_batch_is_taken_in_pieces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = made(norm=True)
    tight.most = 8
    train(tmp_path, tight, marked_data(), epochs=1, quiet=False)
    assert "batch normalisation" in " ".join(capsys.readouterr().out.split())


def test_memory_that_does_not_suffice_for_one_sample_ends_the_run_with_an_explanation(tmp_path: Path) -> None:
    tight = made()
    tight.most = 0
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, tight, marked_data())
    assert caught.value.key == "out-of-memory"


def test_memory_that_runs_out_in_the_optimizer_is_not_tried_again(tmp_path: Path) -> None:
    class Greedy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise MemoryError

    model = made()
    with pytest.raises(TrainingError) as caught:
        train(tmp_path, model, marked_data(), optimizer=Greedy(model.parameters(), lr=0.1))
    assert caught.value.key == "out-of-memory-update"


def test_a_real_limit_of_memory_is_met_by_smaller_pieces(tmp_path: Path) -> None:
    script = tmp_path / "limited.py"
    script.write_text(
        "import resource, sys, numpy as np, torch\n"
        "from torch import nn\n"
        "import rushlight\n"
        "torch.set_num_threads(1)\n"
        "class Wide(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)\n"
        "    def forward(self, x):\n"
        "        wide = self.first(x)[:, :, None].expand(-1, 8, 200_000) * 1.0  # 6.4 MB for each sample\n"
        "        return self.last(wide.mean(2))\n"
        "x = np.random.default_rng(0).normal(size=(128, 8)).astype('float32')\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)\n"
        "rushlight.train(Wide(), (x, np.arange(128) % 2), epochs=1, batch_size=128, test_fraction=0.0, runs=sys.argv[1], name='it')\n"
    )
    done = run_python([script, tmp_path], env=one_thread())
    assert done.returncode == 0, done.stderr[-2000:]
    (first, *_) = events(rushlight.open_run("it", runs=tmp_path), "micro-batch")
    assert (
        "Memory ran out at step 1: from here on 64 samples at a time, 128 to an update as before." in first["message"]
    )


def one_thread() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_batches_of_every_form_are_cut_by_their_samples() -> None:
    batch = {"x": torch.arange(10).reshape(5, 2), "names": list("abcde"), "pair": (torch.arange(5), torch.tensor(3.0))}
    found = split([batch], 2)
    assert [len(piece["x"]) for piece in found] == [2, 2, 1]
    assert [piece["names"] for piece in found] == [["a", "b"], ["c", "d"], ["e"]]
    assert torch.cat([piece["pair"][0] for piece in found]).tolist() == [0, 1, 2, 3, 4]
    assert all(float(piece["pair"][1]) == 3.0 for piece in found)
