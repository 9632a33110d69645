"""Steps that a user's function does by itself: several optimizers, closures, two passes; resumed to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import rushlight
from rushlight.data import step_seed
from rushlight.errors import RunError, UsageError
from rushlight.runs import read_history

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
OPTIONS: dict[str, Any] = {"batch_size": 16, "quiet": True, "normalize": "none"}


class Gan:
    """A generator and a discriminator, each with its optimizer, and the step of both."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        generator, critic = nn.Linear(3, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.model = nn.ModuleDict({"generator": generator, "critic": critic})
        self.of_generator = torch.optim.Adam(generator.parameters(), lr=0.01)
        self.of_critic = torch.optim.Adam(critic.parameters(), lr=0.02)

    def step(self, batch: Any) -> dict[str, Any]:
        real, _ = batch
        generator, critic = self.model["generator"], self.model["critic"]
        fake = generator(torch.randn(len(real), 3))
        self.of_critic.zero_grad()
        judged = functional.softplus(-critic(real)).mean() + functional.softplus(critic(fake.detach())).mean()
        judged.backward()
        self.of_critic.step()
        self.of_generator.zero_grad()
        fooled = functional.softplus(-critic(fake)).mean()
        fooled.backward()
        self.of_generator.step()
        return {"loss": fooled, "critic": judged}

    def options(self) -> dict[str, Any]:
        return {"step": self.step, "optimizer": self.of_generator, "keep": [self.of_critic]}


def stop_at(step: int) -> Any:
    """Return a follower that raises at an epoch's end from a step on."""

    def follow(event: rushlight.Event) -> None:
        if event.kind == "epoch" and event.data["step"] >= step:
            raise KeyError("stop")

    return follow


def test_a_gan_ends_with_the_bits_of_its_own_loop(tmp_path: Path) -> None:
    ours, theirs = Gan(), Gan()
    run = rushlight.train(ours.model, (X, Y), epochs=3, runs=tmp_path, **ours.options(), **OPTIONS)
    losses = []
    theirs.model.train()
    for epoch in (1, 2, 3):
        order = torch.randperm(96, generator=torch.Generator().manual_seed(1_000_003 * epoch))
        for number, rows in enumerate(order.split(16)):
            torch.manual_seed(step_seed(0, epoch, number))
            losses.append(float(theirs.step((X[rows], Y[rows]))["loss"].detach()))
    torch.testing.assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=0, atol=0)
    assert run.losses.tolist() == torch.tensor(losses).tolist()
    values = [json.loads(line)["values"] for line in (run.folder / "values.jsonl").read_text().splitlines()]
    assert [set(found) for found in values] == [{"train/critic"}] * 3
    assert all(line["test"] is None for line in read_history(run.folder) if line["kind"] == "epoch")
    assert run.report is None


def test_a_gan_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    whole, part, again = Gan(), Gan(), Gan()
    straight = rushlight.train(whole.model, (X, Y), epochs=4, runs=tmp_path, **whole.options(), **OPTIONS)
    with pytest.raises(KeyError, match="stop"):
        rushlight.train(
            part.model, (X, Y), epochs=4, runs=tmp_path, name="part", on_event=stop_at(12), **part.options(), **OPTIONS
        )
    with pytest.raises(RunError, match="step"):
        rushlight.resume(
            "part", again.model, (X, Y), optimizer=again.of_generator, keep=[again.of_critic], runs=tmp_path
        )
    run = rushlight.resume("part", again.model, (X, Y), runs=tmp_path, quiet=True, **again.options())
    assert run.summary()["state_sha256"] == straight.summary()["state_sha256"]
    assert run.losses.tolist() == straight.losses.tolist()
    assert not run.summary()["inexact"]


def test_what_a_step_reaches_and_does_not_keep_is_named(tmp_path: Path) -> None:
    gan = Gan()
    run = rushlight.train(
        gan.model, (X, Y), epochs=1, runs=tmp_path, step=gan.step, optimizer=gan.of_generator, **OPTIONS
    )
    assert any("Adam" in note and "keep" in note for note in run.notes)


def test_a_closure_is_called_as_the_optimizer_likes_and_the_loss_evaluates(tmp_path: Path) -> None:
    def lbfgs() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        torch.manual_seed(0)
        model = nn.Linear(6, 2).double()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, history_size=3)

        def step(batch: Any) -> Any:
            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(batch[0].double()), batch[1])
                loss.backward()
                return loss

            return optimizer.step(closure)

        return model, optimizer, step

    def evaluated(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        outputs = model(batch[0].double())
        return functional.cross_entropy(outputs, batch[1]), outputs

    options: dict[str, Any] = {"objective": evaluated, "metrics": [lambda o, y: (o.argmax(1) == y).float().mean()]}
    options |= {"test_data": (X, Y), "runs": tmp_path, **OPTIONS}
    model, optimizer, step = lbfgs()
    whole = rushlight.train(model, (X, Y), step=step, optimizer=optimizer, epochs=3, **options)
    assert whole.report is not None
    assert whole.report.numbers["<lambda>"] > 0.9
    model, optimizer, step = lbfgs()
    rushlight.train(model, (X, Y), step=step, optimizer=optimizer, epochs=2, name="part", **options)
    model, optimizer, step = lbfgs()
    kept = {key: options[key] for key in ("objective", "metrics", "test_data", "runs")}
    part = rushlight.resume("part", model, (X, Y), step=step, optimizer=optimizer, epochs=3, quiet=True, **kept)
    assert part.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_two_passes_with_a_loss_are_evaluated_as_any_other_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def sharpness_aware(batch: Any) -> Tensor:
        first = functional.cross_entropy(model(batch[0]), batch[1])
        gradients = torch.autograd.grad(first, list(model.parameters()))
        with torch.no_grad():
            moved = [0.05 * gradient / (gradient.norm() + 1e-12) for gradient in gradients]
            for parameter, change in zip(model.parameters(), moved, strict=True):
                parameter.add_(change)
        optimizer.zero_grad()
        functional.cross_entropy(model(batch[0]), batch[1]).backward()
        with torch.no_grad():
            for parameter, change in zip(model.parameters(), moved, strict=True):
                parameter.sub_(change)
        optimizer.step()
        return first

    run = rushlight.train(
        model, (X, Y), step=sharpness_aware, optimizer=optimizer, loss="cross-entropy", test_data=(X, Y), metrics=["f1"],
        epochs=3, runs=tmp_path, schedule="cosine", **OPTIONS,
    )  # fmt: skip
    assert run.report is not None
    assert run.report.accuracy is not None
    assert run.report.accuracy > 0.8
    assert run.report.n == 96
    assert run.predict(X[:4].numpy()).labels is not None
    rates = [line["learning_rate"] for line in read_history(run.folder) if line["kind"] == "epoch"]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < 0.1


def test_targets_of_quantities_are_standardised_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, y = nn.Linear(6, 1), 50 + 20 * X[:, 0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = functional.mse_loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    run = rushlight.train(
        model,
        (X, y),
        step=step,
        optimizer=optimizer,
        loss="mse",
        test_data=(X, y),
        epochs=20,
        runs=tmp_path,
        **{**OPTIONS, "normalize": "auto"},
    )
    assert run.report is not None
    assert run.report.mae is not None
    assert run.report.mae < 1
    assert run.losses[0] < 5  # standardised


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "SGD"}, "no optimizer was given"),
        ({"clip_norm": 1.0}, "clip_norm would have no effect"),
        ({"accumulate": 2}, "accumulate would have no effect"),
        ({"on_nan": "skip"}, "on_nan would have no effect"),
        ({"test_data": (X, Y)}, "test_data would have no effect"),
        ({"early_stopping": 2}, "early_stopping"),
        ({"step": lambda batch: None}, "returned|objective"),
        ({"step": lambda batch: torch.zeros(1)[3]}, r"test_own_steps\.py"),
    ],
)
def test_what_does_not_go_with_steps_of_ones_own_is_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    gan = Gan()
    with pytest.raises(UsageError, match=words):
        rushlight.train(gan.model, (X, Y), epochs=1, runs=tmp_path, **{**gan.options(), **OPTIONS, **options})
