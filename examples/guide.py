"""A beginner's walk through PyTorch, each step the plain way first and then with Rushlight.

    python examples/guide.py                     all of Fashion-MNIST, 2 epochs
    python examples/guide.py --samples 2000      a small slice of it
    python examples/guide.py --data digits       8×8 digits that ship with Rushlight: needs no network

device → network → loss and optimizer → data → train → test → save and load → NumPy, and a table at the end. Wherever the
two ways must agree, the script checks that they do; where a beginner trips, it trips, and prints what is said.
docs/guide tells the same walk in words.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import rushlight

SEED, BATCH, EPOCHS, RATE = 0, 64, 2, 1e-3
QUIET: dict[str, Any] = {"quiet": True, "numerics": "exact", "seed": SEED}  # exact: bit for bit the plain loop


@dataclass(frozen=True)
class Pictures:
    """Real pictures as they are stored, uint8 (n, 1, height, width), with their class numbers, int64 (n,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def pixels(self) -> int:
        return self.train_images[0].numel()


# ── device ───────────────────────────────────────────────────────────────────────────────────────────────────


def device() -> torch.device:
    """Where the arithmetic happens. A model and its batches must be on the same device."""
    title("device")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    chosen = found or torch.device("cpu")
    plain(f'torch.accelerator, else the CPU: "{chosen}". Then model.to(device), and every batch too.')
    ours('device="auto" is the default: the model and the data are moved for you. See: rushlight env')
    return chosen


# ── network ──────────────────────────────────────────────────────────────────────────────────────────────────


class NeuralNetwork(nn.Module):
    """Flatten, then linear layers of these sizes with ReLU between them: NeuralNetwork(6, 8, 5) is the guide's.

    There is no ReLU after the last: what comes out are logits, which may be negative.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_relu_stack(self.flatten(x))  # (batch, classes)


def network(pictures: Pictures) -> NeuralNetwork:
    """Six inputs cannot take pictures of 784 pixels. PyTorch says so in matrices, Rushlight in layers."""
    title("network")
    six = NeuralNetwork(6, 8, 5)
    plain(f"NeuralNetwork(6, 8, 5) on a batch: {refused(lambda: six(as_floats(pictures.train_images[:BATCH])))}")
    data = as_data(pictures)
    ours(f"the same: {refused(lambda: rushlight.train(six, data, **QUIET))}")
    torch.manual_seed(SEED)
    model = NeuralNetwork(pictures.pixels, 512, 512, len(pictures.classes))
    plain(f"NeuralNetwork({pictures.pixels}, 512, 512, {len(pictures.classes)}) takes them:\n{model.linear_relu_stack}")
    ours(f'any nn.Module, as it is; or by name: model="mlp", model_arguments={{"hidden": {(512, 512)}}}')
    return model


# ── loss and optimizer ───────────────────────────────────────────────────────────────────────────────────────


def loss_and_optimizer(model: NeuralNetwork, pictures: Pictures) -> None:
    """Cross-entropy takes logits: the softmax is inside. An optimizer must hold this model's own parameters."""
    title("loss and optimizer")
    logits, labels = model(as_floats(pictures.train_images[:BATCH])), pictures.train_labels[:BATCH]
    loss = nn.CrossEntropyLoss()(logits, labels)
    by_hand = -logits.softmax(1)[torch.arange(BATCH), labels].log().mean()
    assert torch.allclose(loss, by_hand)
    plain(f"CrossEntropyLoss of the logits is {loss:.4f}; -log(softmax) of the right class, averaged, {by_hand:.4f}")
    with_relu = nn.Sequential(copy.deepcopy(model), nn.ReLU())
    pushed = float((with_relu(as_floats(pictures.train_images[:BATCH])) == 0).float().mean())
    plain(f"with a ReLU on the logits, {pushed:.0%} of them are 0 and pass no gradient back")
    run = rushlight.train(with_relu, as_data(pictures), epochs=1, **QUIET)
    ours(f"the same: {next(note for note in notes_of(run) if 'ReLU' in note)}")
    other = torch.optim.SGD(NeuralNetwork(6, 8, 5).parameters(), lr=RATE)
    ours(f"another's optimizer: {refused(lambda: rushlight.train(model, as_data(pictures), optimizer=other, **QUIET))}")


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────


def data(pictures: Pictures) -> tuple[TensorDataset, TensorDataset]:
    """Pictures become float32 between 0 and 1, and come in shuffled batches. Rushlight keeps them as bytes."""
    title("data")
    train_set = TensorDataset(as_floats(pictures.train_images), pictures.train_labels)
    test_set = TensorDataset(as_floats(pictures.test_images), pictures.test_labels)
    images, labels = next(iter(in_our_order(train_set, epoch=1)))
    plain(f"TensorDataset, DataLoader: a batch of {tuple(images.shape)} {images.dtype}, labels {labels[:5].tolist()} …")
    opened = rushlight.open_data(as_data(pictures), normalize="unit")
    our_images, our_labels = next(opened.train.batches(BATCH, seed=SEED, epoch=1))
    assert torch.equal(our_images, images)
    assert torch.equal(our_labels, labels)
    ours("open_data(…): the same batch in the same order, which is a function of (seed, epoch) and of nothing else")
    return train_set, test_set


def in_our_order(dataset: TensorDataset, epoch: int) -> DataLoader[Any]:
    """A plain DataLoader in the order that Rushlight documents, so that the two can be compared."""
    generator = torch.Generator().manual_seed(SEED + 1_000_003 * epoch)
    order = torch.randperm(len(dataset), generator=generator)
    return DataLoader(dataset, batch_size=BATCH, sampler=order.tolist())


# ── train ────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_epoch(model: nn.Module, loader: DataLoader[Any], loss_fn: nn.Module, optimizer: Any, where: Any) -> None:
    """The pattern: forward, loss, clear the old gradients, backward, step."""
    model.train()
    for x, y in loader:
        loss = loss_fn(model(x.to(where)), y.to(where))
        optimizer.zero_grad()  # or this batch's gradients would be added to all earlier ones
        loss.backward()
        optimizer.step()


def train(
    model: NeuralNetwork, sets: tuple[TensorDataset, TensorDataset], classes: tuple[str, ...], where: torch.device
) -> tuple[NeuralNetwork, rushlight.Run]:
    """The same initial weights, the same order, the same arithmetic: so the same weights, to the last bit."""
    title("train")
    train_set, test_set = sets
    by_hand, mine = copy.deepcopy(model).to(where), copy.deepcopy(model)
    loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(by_hand.parameters(), lr=RATE)
    for epoch in range(1, EPOCHS + 1):
        plain_epoch(by_hand, in_our_order(train_set, epoch), loss_fn, optimizer, where)
    plain(f"the loop by hand: {EPOCHS} epochs of SGD, learning rate {RATE:g}, batches of {BATCH}")
    run = rushlight.train(
        mine,
        DataLoader(train_set, batch_size=BATCH, shuffle=True),
        test_data=DataLoader(test_set, batch_size=BATCH),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(mine.parameters(), lr=RATE),
        epochs=EPOCHS,
        classes=classes,
        **QUIET,
    )
    assert same_weights(by_hand, run.model)
    ours(f"train(model, DataLoader, optimizer=SGD, …): {len(run.losses):,} steps later, the same weights bit for bit")
    return by_hand, run


# ── test ─────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_test(model: nn.Module, loader: DataLoader[Any], where: torch.device) -> tuple[float, float, float]:
    """Return accuracy, the average loss, and what it looks like when it is divided by samples instead of batches."""
    model.eval()  # dropout and batch norm behave differently in testing
    loss_fn, right, summed, weighted, samples = nn.CrossEntropyLoss(), 0, 0.0, 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            logits = model(x.to(where))
            loss = loss_fn(logits, y.to(where)).item()  # already the mean over this batch
            summed += loss
            weighted += loss * len(y)  # the last batch may be smaller
            right += int((logits.argmax(1).cpu() == y).sum())
            samples += len(y)
    return right / samples, weighted / samples, summed / samples


def test(by_hand: nn.Module, run: rushlight.Run, test_set: TensorDataset, where: torch.device) -> None:
    """Pictures that no weight was fitted to: the same accuracy and loss from both."""
    title("test")
    accuracy, loss, wrong = plain_test(by_hand, DataLoader(test_set, batch_size=4 * BATCH), where)
    plain(f"accuracy {accuracy:.2%}, average loss {loss:.4f} (divided by samples instead, it would read {wrong:.4f})")
    report = run.test()
    assert report.accuracy == accuracy
    assert abs(report.loss - loss) < 1e-5
    low, high = report.accuracy_interval or (0.0, 1.0)
    ours(f"run.test(): accuracy {report.accuracy:.2%} (95% interval {low:.1%} to {high:.1%}), loss {report.loss:.4f}")
    worst = min(report.classes, key=lambda figures: figures.recall)
    ours(f'and by class: "{worst.name}" is recognised worst, {worst.recall:.1%} of its {worst.n:,} samples')


# ── save and load ────────────────────────────────────────────────────────────────────────────────────────────


def save_and_load(by_hand: NeuralNetwork, run: rushlight.Run, fresh: Callable[[], NeuralNetwork]) -> None:
    """Weights travel as a state_dict. A whole pickled model is a program: it is refused, and nothing in it runs."""
    title("save and load")
    torch.save(by_hand.state_dict(), "plain.pth")
    model = fresh()
    model.load_state_dict(torch.load("plain.pth", weights_only=True))
    assert same_weights(model, by_hand)
    plain("torch.save(model.state_dict(), …), and load_state_dict into a new model: the same weights")
    run.save("ours.pth")
    model = fresh()
    model.load_state_dict(torch.load("ours.pth", weights_only=True))  # the plain way reads what Rushlight saved
    assert same_weights(model, rushlight.load("plain.pth", fresh()))  # and the other way round
    run.save("ours.safetensors")
    run.save("bundle")
    for path in ("ours.safetensors", "bundle"):
        assert same_weights(rushlight.load(path, fresh()), by_hand)
    ours("run.save: .pth, .safetensors or a folder, the bundle; each way reads the other's .pth")
    torch.save(by_hand, "whole.pth")  # the guide's save(model, …)
    ours(f"a whole pickled model: {refused(lambda: rushlight.load('whole.pth', fresh()))}")


# ── NumPy ────────────────────────────────────────────────────────────────────────────────────────────────────


def numpy_in_and_out(by_hand: nn.Module, run: rushlight.Run, pictures: Pictures, where: torch.device) -> None:
    """`from_numpy` and `numpy()` share one memory; `predict` takes arrays and gives arrays."""
    title("NumPy")
    array = np.array([[1, 2], [3, 4]], dtype=np.float32)
    tensor = torch.from_numpy(array)
    tensor[0, 0] = 9
    assert array[0, 0] == 9
    assert np.shares_memory(array, tensor.numpy())
    plain("torch.from_numpy(array) and tensor.numpy() share memory: a change in one is a change in both")
    images = as_floats(pictures.test_images[:5]).numpy()  # (5, 1, height, width) float32
    with torch.no_grad():
        probabilities = by_hand(torch.from_numpy(images).to(where)).softmax(1).cpu().numpy()
    predicted = run.predict(images)
    assert np.allclose(np.asarray(predicted), probabilities, atol=1e-6)
    names = [pictures.classes[number] for number in probabilities.argmax(1)]
    assert predicted.labels is not None
    assert predicted.labels.tolist() == names
    plain(f"model(from_numpy(x)).softmax(1).numpy(): {', '.join(names)}")
    ours(f"run.predict(x), an array in and arrays out: {', '.join(predicted.labels)}")
    ours(f"the wrong shape: {refused(lambda: run.predict(images[:, :, :6, :6]))}")


# ── your own loop, and a table ───────────────────────────────────────────────────────────────────────────────


def own_loop(pictures: Pictures) -> None:
    """SGD at 1e-3 is slow. The defaults do better, and the loop can be yours: it is an iterator."""
    title("a loop of your own")
    for epoch in rushlight.epochs("mlp", as_data(pictures), epochs=EPOCHS, quiet=True):
        assert epoch.test is not None
        ours(f"epoch {epoch.number}: train loss {epoch.train_loss:.4f}, test accuracy {epoch.test.accuracy:.2%}")


def table() -> None:
    """Where the guide's six inputs and five outputs belong: a table of six columns and five kinds. Made-up numbers."""
    title("a table")
    random = np.random.default_rng(SEED)
    middles = random.normal(0, 2, (5, 6))
    kinds = random.integers(0, 5, 600)
    columns = (middles[kinds] + random.normal(0, 1, (600, 6))).astype(np.float32)
    run = rushlight.train(NeuralNetwork(6, 8, 5), (columns, kinds), lr=0.03, epochs=10, quiet=True)
    assert run.report is not None
    assert run.report.accuracy > 0.8
    ours(f"NeuralNetwork(6, 8, 5) on (600, 6) made-up numbers: accuracy {run.report.accuracy:.1%} on a fifth set aside")


# ── the walk ─────────────────────────────────────────────────────────────────────────────────────────────────


def open_pictures(name: str, samples: int | None) -> Pictures:
    """Open a dataset by name and keep the first `samples` of it, with a sixth as many to test on."""
    opened: Any = rushlight.open_data(name)
    train_split, test_split = opened.train, opened.test
    to_test = None if samples is None else max(samples // 6, 1)
    return Pictures(
        train_split.inputs[:samples], train_split.targets[:samples], test_split.inputs[:to_test],
        test_split.targets[:to_test], opened.target.classes,
    )  # fmt: skip


def as_floats(images: Tensor) -> Tensor:
    """What torchvision's ToTensor does: bytes 0…255 become float32 0…1."""
    return images.float() / 255


def as_data(pictures: Pictures) -> Any:
    """The pictures as Rushlight takes them: two pairs of tensors."""
    return (pictures.train_images, pictures.train_labels), (pictures.test_images, pictures.test_labels)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two models have the same parameters, bit for bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)


def notes_of(run: rushlight.Run) -> list[str]:
    """What Rushlight noticed at the start of a run, which it also prints."""
    notes: list[str] = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["data_notes"]
    return notes


def refused(action: Callable[[], object]) -> str:
    """Do what must go wrong, and return what is said."""
    try:
        action()
    except (rushlight.RushlightError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("this should have been refused")


def title(words: str) -> None:
    print(f"\n── {words} {'─' * (76 - len(words))}")


def plain(words: str) -> None:
    say("PyTorch", words)


def ours(words: str) -> None:
    say("Rushlight", words)


def say(who: str, words: str) -> None:
    """Print lines in two columns, the second wrapped."""
    for line in words.splitlines():
        print(textwrap.fill(line, 108, initial_indent=f"{who:11}", subsequent_indent=" " * 11))
        who = ""


def walk(name: str, samples: int | None) -> None:
    """Every section in its order, writing into the current folder."""
    pictures = open_pictures(name, samples)
    where = device()
    model = network(pictures)
    loss_and_optimizer(model, pictures)
    sets = data(pictures)
    by_hand, run = train(model, sets, pictures.classes, where)
    test(by_hand, run, sets[1], where)
    save_and_load(by_hand, run, lambda: NeuralNetwork(pictures.pixels, 512, 512, len(pictures.classes)))
    numpy_in_and_out(by_hand, run, pictures, where)
    own_loop(pictures)
    table()


def main() -> None:
    parser = argparse.ArgumentParser(description="A beginner's walk: plain PyTorch beside Rushlight.")
    parser.add_argument("--data", default="fashion-mnist", help="fashion-mnist, or digits, which needs no network")
    parser.add_argument("--samples", type=int, help="use only so many training samples")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the runs and files of the walk here")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        stack.callback(os.chdir, Path.cwd())  # back again before the folder is deleted
        os.chdir(folder)
        try:
            walk(options.data, options.samples)
        except rushlight.RushlightError as error:
            sys.exit(f"{error}")
    print("\nThe two ways agree wherever they must.")


if __name__ == "__main__":
    main()
