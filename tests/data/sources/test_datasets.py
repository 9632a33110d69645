"""A user's own Dataset or DataLoader: kept where that changes nothing, else streamed, and what was decided is said."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from rushlight.data.feed.loader import LoaderSplit
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.feed.streamed import StreamedSplit
from rushlight.data.open import DataOptions, open_source
from rushlight.data.shape.build import EXAMPLES
from rushlight.data.sources.datasets.datasets import open_dataset
from rushlight.data.sources.named.named import open_named
from rushlight.data.splits import Data
from rushlight.errors import DataError, RushlightError, UsageError
from rushlight.options import check_options
from rushlight.report.report import Report
from rushlight.runs.history import read_history
from rushlight.training.checkpoint.checkpoint import state_digest
from rushlight.training.loop import epochs
from rushlight.training.setup.prepare import start_training
from rushlight.training.state import Training

ROOM = 2**30


class Digits(Dataset[Any]):
    """The real digits as a user's dataset: `transform` gets the picture as (1, 8, 8) uint8."""

    def __init__(self, transform: Any = None, target: Any = int, count: int = 300) -> None:
        arrays = open_named("digits")
        self.images, self.labels = arrays.train_inputs[:count], arrays.train_targets[:count]
        self.transform, self.target = transform or (lambda image: torch.from_numpy(image)), target

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index].reshape(1, 8, 8)), self.target(self.labels[index])


def jittered(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).float() + torch.rand(1)


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0])


def scaled(image: np.ndarray) -> Tensor:
    return (torch.from_numpy(image).float() / 255 - 0.5) / 0.25


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def opened(source: Any, test: Any = None, **options: Any) -> Data:
    return open_dataset(source, test, memory_limit=options.pop("memory_limit", ROOM), **options)


def train(data: Any, tmp_path: Path, model: Any = None, **options: Any) -> Training:
    """Train without the plots and the bundle of a run's end; what a run would record is in its history."""
    given = check_options({"epochs": 1, "runs": tmp_path, "quiet": True, "numerics": "exact", **options})
    with ExitStack() as stack:
        training = start_training(model or network(), data, given, stack)
        for epoch in epochs(training):
            training.history.write({"kind": "event", "event": "test", **asdict(epoch.test or Report(None, 0.0, 0))})
    return training


def last_report(training: Training) -> dict[str, Any]:
    """The last test's report."""
    return read_history(training.folder)[-1]


# ── kept or streamed ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_dataset_that_is_the_same_each_time_is_kept_in_memory_and_said_so() -> None:
    data = opened(Digits())
    assert isinstance(data.train, ResidentSplit)
    assert "Digits is kept in memory: 8 samples read again gave the same, and drew nothing at random." in data.notes
    assert data.target is not None
    assert data.target.outputs == 10
    assert data.train.inputs.dtype == torch.uint8
    assert data.test is not None
    assert "60 of 300 samples were set aside" in " ".join(data.notes)


@pytest.mark.parametrize(
    "draw",
    [jittered, lambda image: image * random.random(), lambda image: image + np.random.rand()],
    ids=["torch", "random", "numpy"],
)
def test_a_dataset_with_randomness_from_any_generator_is_streamed_and_said_so(draw: Any) -> None:
    data = opened(Digits(draw), Digits(draw))
    assert isinstance(data.train, StreamedSplit)
    assert "Digits is streamed: reading a sample draws random numbers." in data.notes
    assert data.target is not None
    assert data.target.outputs == 10


@pytest.mark.parametrize("chance", [0.5, 0.05, 0.0])
def test_a_flip_that_is_seldom_done_is_still_random(chance: float) -> None:
    data = opened(Digits(lambda image: np.flip(image, 2).copy() if torch.rand(1) < chance else image), Digits())
    assert isinstance(data.train, StreamedSplit)


def test_a_generator_of_the_datasets_own_is_seeded_for_each_sample() -> None:
    own = np.random.default_rng(7)
    data = opened(Digits(lambda image: np.flip(image, 2).copy() if own.random() < 0.5 else image), Digits())
    assert isinstance(data.train, StreamedSplit)
    assert any("reading a sample draws random numbers" in note for note in data.notes)
    one, other = (list(data.train.batches(64, seed=1, epoch=2)) for _ in range(2))
    assert all(torch.equal(first[0], second[0]) for first, second in zip(one, other, strict=True))
    assert data.inexact == ()


def test_randomness_that_no_seed_governs_is_streamed_and_said_so() -> None:
    source = random.SystemRandom()
    noisy = Digits(lambda image: torch.from_numpy(image).float() + source.random())
    data = opened(noisy, noisy)
    assert isinstance(data.train, StreamedSplit)
    assert any("a sample that is read again is another, and no seed governs it" in note for note in data.notes)
    assert len(data.inexact) == 1


def test_a_dataset_that_counts_its_reads_is_as_it_was_after_it_was_opened() -> None:
    class Counting(Digits):
        reads = 0

        def __getitem__(self, index: int) -> Any:
            self.reads += 1
            image, label = super().__getitem__(index)
            return image + self.reads, label

    dataset = Counting()
    data = opened(dataset, Digits())
    assert isinstance(data.train, StreamedSplit)
    assert any("it changes itself when it is read" in note for note in data.notes)
    assert dataset.reads == 1 + EXAMPLES + 300  # the first sample's, the examples', and each for its label


def test_probing_leaves_the_generators_as_they_were() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate()
    opened(Digits(jittered), Digits(scaled))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("limit", [ROOM, 1000])
def test_whole_numbers_that_are_no_bytes_stay_whole_kept_or_streamed(limit: int) -> None:
    tokens = TensorDataset(torch.arange(240).reshape(40, 6) % 9, torch.arange(40) % 2)
    data = opened(tokens, tokens, memory_limit=limit)
    assert data.features is not None
    assert (data.features.dtype, data.features.kind) == ("int64", "array")
    assert data.features.normalization.name == "none"
    inputs, _ = next(data.train.in_order(40))
    assert torch.equal(inputs, tokens.tensors[0])
    narrow = TensorDataset(tokens.tensors[0].int(), tokens.tensors[1])
    assert next(opened(narrow, narrow, memory_limit=limit).train.in_order(4))[0].dtype == torch.int64


@pytest.mark.parametrize("limit", [ROOM, 1000])
def test_bytes_to_train_on_and_floats_to_test_on_are_refused(limit: int) -> None:
    unit = Digits(lambda image: torch.from_numpy(image).float() / 255)
    for train_data, test in ((Digits(), unit), (unit, Digits())):
        with pytest.raises(DataError, match=r"uint8.*float32|float32.*uint8") as caught:
            opened(train_data, test, memory_limit=limit)
        assert caught.value.key == "other-dtype"
        data = opened(train_data, DataLoader(test, 50, drop_last=True), memory_limit=limit)
        assert data.test is not None
        with pytest.raises(DataError) as caught:
            next(data.test.in_order(50))
        assert caught.value.key == "other-dtype"


def test_quantities_are_on_one_scale_in_kept_data_and_a_test_loader() -> None:
    data = Digits(scaled, target=lambda label: float(label) * 1000)
    kept = opened(data, DataLoader(data, 300, drop_last=True))
    assert isinstance(kept.train, ResidentSplit)
    assert kept.test is not None
    ((_, targets),) = kept.test.in_order(300)
    torch.testing.assert_close(targets, kept.train.targets)


@pytest.mark.parametrize("transform", [jittered, lambda image: torch.from_numpy(image)])
def test_streamed_data_keeps_a_few_raw_inputs_as_examples(transform: Any) -> None:
    whole = Digits(transform)
    sampler = WeightedRandomSampler([1.0] * 300, 100)
    for data in (opened(whole, whole, memory_limit=1000), opened(DataLoader(whole, 8, sampler=sampler), whole)):
        assert data.train.kind == "streamed"
        assert data.features is not None
        assert data.examples is not None
        assert data.examples.shape == (4, 1, 8, 8)
        assert str(data.examples.dtype) == f"torch.{data.features.dtype}"
        assert data.examples.max() > 1  # not divided by 255


def test_one_random_sample_among_many_still_counts_where_it_is_probed() -> None:
    class LastIsRandom(Digits):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return (image.float() + (torch.rand(1) if index == len(self) - 1 else 0)), label

    assert isinstance(opened(LastIsRandom()).train, StreamedSplit)


def test_what_does_not_fit_in_memory_is_streamed() -> None:
    data = opened(Digits(), Digits(), memory_limit=1000)
    assert isinstance(data.train, StreamedSplit)
    assert any("would not fit in memory" in note for note in data.notes)


def test_kept_and_streamed_data_train_to_the_same_bits(tmp_path: Path) -> None:
    digests = []
    for limit in (ROOM, 1000):
        torch.manual_seed(0)
        data = opened(Digits(scaled), Digits(scaled), memory_limit=limit)
        digests.append(state_digest(train(data, tmp_path).model))
    assert digests[0] == digests[1]


# ── kinds of samples ─────────────────────────────────────────────────────────────────────────────────────────


def test_pictures_of_pil_are_taken_as_they_are(tmp_path: Path) -> None:
    data = opened(Digits(picture))
    assert isinstance(data.train, ResidentSplit)
    assert data.train.inputs.shape == (240, 1, 8, 8)
    assert data.train.inputs.dtype == torch.uint8
    colour = opened(Digits(lambda image: picture(image).convert("RGBA")))
    assert isinstance(colour.train, ResidentSplit)
    assert colour.train.inputs.shape == (240, 3, 8, 8)
    assert last_report(train(Digits(picture), tmp_path, "mlp", model_arguments={"hidden": (8,)}))["n"] == 60


def test_what_a_users_transform_scaled_is_not_scaled_again() -> None:
    data = opened(Digits(scaled))
    assert data.features is not None
    assert data.features.normalization.name == "none"
    ((inputs, _),) = data.train.batches(300, seed=0, epoch=1)
    raw = torch.stack([scaled(image.reshape(1, 8, 8)) for image in open_named("digits").train_inputs[:300]])
    assert {round(float(value), 4) for value in inputs.flatten()} <= {round(float(value), 4) for value in raw.flatten()}


def test_normalisation_is_done_where_it_is_asked_for() -> None:
    data = opened(Digits(scaled), normalize="standard")
    ((inputs, _),) = data.train.batches(300, seed=0, epoch=1)
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inputs.std()) == pytest.approx(1, abs=1e-2)


def test_subsets_and_joined_datasets_are_datasets(tmp_path: Path) -> None:
    parts = ConcatDataset([Subset(Digits(), range(0, 100)), Subset(Digits(), range(200, 300))])
    data = opened(parts)
    assert isinstance(data.train, ResidentSplit)
    assert data.train.samples + (data.test.samples if data.test and data.test.samples else 0) == 200
    assert train(parts, tmp_path).state["step"] == 3


def test_texts_as_targets_are_classes_by_name_in_both_splits() -> None:
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    few = Subset(Digits(target=lambda label: names[label]), [i for i in range(300) if i % 3])
    data = opened(Digits(target=lambda label: names[label]), few)
    assert data.target is not None
    assert data.target.classes == tuple(sorted(names))
    assert isinstance(data.test, ResidentSplit)
    expected = [sorted(names).index(names[label]) for label in open_named("digits").train_targets[few.indices]]
    assert data.test.targets.tolist() == expected


def test_texts_as_targets_of_streamed_data_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError) as caught:
        opened(Digits(jittered, target=str))
    assert caught.value.key == "streamed-texts"


def test_quantities_as_targets_are_a_regression(tmp_path: Path) -> None:
    data = Digits(scaled, target=lambda label: float(label) * 1000)
    run = train(data, tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    assert 1000 < last_report(run)["mae"] < 5000  # in the data's own units


# ── what is wrong with a dataset ─────────────────────────────────────────────────────────────────────────────


def test_an_empty_dataset_is_refused() -> None:
    for test in (None, Digits()):
        with pytest.raises(DataError) as caught:
            opened(Digits(count=0), test)
        assert caught.value.key == "empty-split"
    for transform in (None, jittered):
        with pytest.raises(DataError, match="test split has no samples"):
            opened(Digits(transform), Digits(count=0))


@pytest.mark.parametrize("index", [0, 43, 60, 299])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_named(index: int, workers: int) -> None:
    class Torn(Digits):
        def __getitem__(self, asked: int) -> Any:
            if asked == index:
                raise OSError("the file is torn")
            return super().__getitem__(asked)

    with pytest.raises(DataError, match=f"reading sample {index} failed: OSError: the file is torn") as caught:
        opened(Torn(), workers=workers)
    assert caught.value.key == "sample-failed"


def test_samples_of_unequal_size_are_refused_with_both_sizes() -> None:
    cut = Digits(lambda image: torch.from_numpy(image[:, : 7 + int(image.sum()) % 2]))
    with pytest.raises(DataError, match=r"\(1, [78], 8\).* and .*\(1, [78], 8\)") as caught:
        opened(cut)
    assert caught.value.key == "unequal-samples"
    half = ConcatDataset([Digits(), Digits(lambda image: torch.from_numpy(image[:, :5]), count=40)])
    with pytest.raises(DataError) as caught:  # each batch by itself may be in order
        opened(Subset(half, [*range(256), *range(300, 340)]))
    assert caught.value.key == "unequal-samples"


def test_samples_of_a_kind_that_cannot_be_stacked_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        opened(Digits(target=lambda label: None))
    assert caught.value.key == "samples-not-batchable"
    assert "NoneType" in caught.value.problem


def test_a_sample_that_fails_during_training_ends_it_with_its_number(tmp_path: Path) -> None:
    class LaterTorn(Digits):
        def __getitem__(self, index: int) -> Any:
            if index == 250 and self.torn:
                raise OSError("the file is torn")
            return super().__getitem__(index)

    data = LaterTorn(jittered)
    data.torn = False
    for workers in (0, 1):
        streams = opened(data, workers=workers)
        data.torn = True
        with pytest.raises(DataError, match="reading sample 250 failed: OSError: the file is torn"):
            train(streams, tmp_path)
        data.torn = False


def test_data_without_a_length_is_refused() -> None:
    class NoLength(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return torch.zeros(2), 0

    with pytest.raises(DataError) as caught:
        opened(NoLength())
    assert caught.value.key == "no-dataset"


# ── DataLoaders ──────────────────────────────────────────────────────────────────────────────────────────────


class Lines(IterableDataset[Any]):
    """The digits as a stream."""

    def __iter__(self) -> Iterator[Any]:
        data = Digits(scaled)
        for index in range(len(data)):
            yield data[index]


def test_an_ordinary_loader_gives_its_dataset_batch_size_and_shuffling(tmp_path: Path) -> None:
    shuffled = opened(DataLoader(Digits(), batch_size=17, shuffle=True))
    assert shuffled.batch_size == 17
    assert isinstance(shuffled.train, ResidentSplit)
    assert shuffled.train.is_shuffled
    ordered = opened(DataLoader(Digits(), batch_size=17), Digits())
    assert isinstance(ordered.train, ResidentSplit)
    ((_, labels),) = ordered.train.batches(300, seed=0, epoch=1)
    assert labels.tolist() == open_named("digits").train_targets[:300].tolist()
    assert any("does not shuffle, so neither does training" in note for note in ordered.notes)
    run = train(DataLoader(Digits(), batch_size=17, shuffle=True), tmp_path)
    assert run.recipe.batch_size == 17
    assert run.state["step"] == 15  # 240 samples in batches of 17


def test_a_dataset_and_its_loader_train_to_the_same_bits(tmp_path: Path) -> None:
    digests = []
    for data in (Digits(scaled), DataLoader(Digits(scaled), batch_size=32, shuffle=True)):
        torch.manual_seed(0)
        digests.append(state_digest(train(data, tmp_path, batch_size=32).model))
    assert digests[0] == digests[1]


def test_a_loader_with_a_sampler_of_its_own_is_used_as_it_is(tmp_path: Path) -> None:
    weights = [1.0 if label == 3 else 0.0 for label in open_named("digits").train_targets[:300]]
    loader = DataLoader(Digits(scaled), 8, sampler=WeightedRandomSampler(weights, 100))
    data = opened(loader, DataLoader(Digits(scaled), 50))
    assert isinstance(data.train, LoaderSplit)
    labels = torch.cat([y for _, y in data.train.batches(1, seed=0, epoch=1)])
    assert labels.tolist() == [3] * 100
    assert data.target is not None
    assert data.target.outputs == 10  # by the dataset, not by the batch that came first
    run = train((loader, DataLoader(Digits(scaled), 50)), tmp_path)
    assert run.state["step"] == 13
    assert last_report(run)["n"] == 300


def test_a_loader_with_a_collate_function_of_its_own_is_used_as_it_is(tmp_path: Path) -> None:
    def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.stack([image.flatten()[:5] for image, _ in samples]), torch.tensor([label for _, label in samples])

    loader = DataLoader(Digits(scaled), 30, shuffle=True, collate_fn=collate)
    data = opened(loader, loader)
    assert data.features is not None
    assert data.features.shape == (5,)
    assert train((loader, loader), tmp_path, nn.Linear(5, 10)).state["step"] == 10
    kept = opened(Digits(lambda image: scaled(image).flatten()[:5]), loader)
    assert isinstance(kept.train, ResidentSplit)
    assert isinstance(kept.test, LoaderSplit)


def test_an_iterable_dataset_in_a_loader_trains_for_as_long_as_it_gives_batches(tmp_path: Path) -> None:
    run = train(DataLoader(Lines(), 64), tmp_path, test_data=DataLoader(Lines(), 64), epochs=2)
    assert run.state["step"] == 10
    assert run.recipe.schedule["name"] == "constant"  # how many steps there will be is not known


def test_an_iterable_dataset_without_a_loader_is_batched_and_said_so(tmp_path: Path) -> None:
    data = open_source(Lines(), Lines())
    assert any("Lines is read in batches of 64" in note for note in data.notes)
    assert [len(labels) for _, labels in data.train.in_order(1)] == [64, 64, 64, 64, 44]
    run = train(Lines(), tmp_path, test_data=Lines())
    assert run.state["step"] == 5
    assert last_report(run)["n"] == 300
    assert isinstance(opened(Digits(scaled), Lines()).test, LoaderSplit)


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_iterable_that_gives_the_same_iterator_again_is_refused_before_a_batch_is_lost(
    tmp_path: Path, epochs: int
) -> None:
    class Once(Lines):
        def __init__(self) -> None:
            self.lines = super().__iter__()

        def __iter__(self) -> Iterator[Any]:
            return self.lines

    data = Once()
    for source in (data, DataLoader(data, 64)):
        with pytest.raises(
            DataError, match="Once can be read only once: its __iter__ returns the same generator"
        ) as caught:
            train(source, tmp_path, epochs=epochs)
        assert caught.value.key == "begins-once"
    assert len(list(data)) == 300


def test_an_iterable_that_does_not_begin_anew_is_explained(tmp_path: Path) -> None:
    class Drained(Lines):
        def __init__(self) -> None:
            self.lines = super().__iter__()

        def __iter__(self) -> Iterator[Any]:
            yield from (line for line in self.lines)  # closing this does not close what it reads

    with pytest.raises(DataError, match="gave no batches in epoch 2") as caught:
        train(DataLoader(Drained(), 64), tmp_path, epochs=2)
    assert caught.value.key == "no-batches"


def test_dict_batches_train_with_an_objective_and_are_refused_without(tmp_path: Path) -> None:
    class Named(Digits):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return {"name": f"digit {index}", "image": image, "label": label}

    def objective(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch["image"].float()), batch["label"])

    with pytest.raises(UsageError, match="objective=f") as caught:
        train(Named(), tmp_path)
    assert caught.value.key == "model-takes-no-batch"
    model = network()
    run = train(Named(), tmp_path, model, objective=objective, test_data=Named(), lr=1e-3)
    notes = " ".join(opened(Named()).notes)
    assert "is streamed: its samples are not (input, target)" in notes
    assert "kept in memory" not in notes
    assert run.state["step"] == 5
    with torch.no_grad():
        whole = Digits()
        inputs, labels = torch.stack([image for image, _ in whole]), torch.tensor([label for _, label in whole])
        expected = nn.functional.cross_entropy(model(inputs.float()), labels)
    assert last_report(run)["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert last_report(run)["n"] == 300


def test_two_loaders_and_two_datasets_can_be_given_as_one_pair() -> None:
    for pair in (
        (Digits(), Digits(count=50)),
        (DataLoader(Digits(), 9, shuffle=True), DataLoader(Digits(count=50), 9)),
    ):
        data = open_source(pair)
        assert data.train.samples == 300
        assert data.test is not None
        assert data.test.samples == 50


def test_a_binary_loss_takes_two_classes_kept_or_streamed(tmp_path: Path) -> None:
    reports = []
    for transform in (scaled, lambda image: scaled(image) + 0 * torch.rand(1)):
        data = Digits(transform, target=lambda label: int(label > 4))
        limit = ROOM if transform is scaled else 1000
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        run = train(
            opened(data, data, memory_limit=limit), tmp_path, model, loss="bce", lr=0.05, batch_size=8, numerics="exact"
        )
        reports.append(last_report(run))
    assert reports[0] == reports[1]
    assert reports[0]["accuracy"] > 0.7


class Bytes(Dataset[tuple[Tensor, int]]):
    """Images of bytes, as a dataset without a transform gives them; random ones cannot be kept."""

    def __init__(self, is_random: bool) -> None:
        self.is_random = is_random

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.full((1, 4, 4), 200 + index % 2, dtype=torch.uint8)
        return (image - torch.randint(0, 5, (1, 4, 4), dtype=torch.uint8)) if self.is_random else image, index % 2


@pytest.mark.parametrize("is_random", [False, True])
def test_images_of_bytes_do_not_reach_the_model_as_0_to_255(is_random: bool) -> None:
    data = open_source(Bytes(is_random), Bytes(is_random))
    assert data.train.kind == ("streamed" if is_random else "resident")
    for split in (data.train, data.test):
        assert split is not None
        inputs, _ = next(split.in_order(8))
        assert inputs.dtype == torch.float32
        assert inputs.abs().max() <= 1.01
    plain = open_source(Bytes(is_random), Bytes(is_random), DataOptions(normalize="none"))
    assert next(plain.train.in_order(8))[0].max() > 190


def test_standardising_streamed_data_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match="mean and std of its features cannot be learnt"):
        open_source(Bytes(True), Bytes(True), DataOptions(normalize="standard"))


# ── arrays to test on ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [ROOM, 1000])
@pytest.mark.parametrize("kind", [tuple, list])
def test_a_pair_of_arrays_to_test_on_is_read_as_its_samples(limit: int, kind: Any) -> None:
    arrays = open_named("digits")
    pair = kind((arrays.test_inputs, arrays.test_targets))
    for source in (Digits(), DataLoader(Digits(), 50, shuffle=True)):
        data = opened(source, pair, validation=pair, memory_limit=limit)
        for split in (data.validation, data.test):
            assert split is not None
            ((inputs, targets),) = split.in_order(len(arrays.test_targets))
            assert torch.equal(targets, torch.from_numpy(arrays.test_targets))
            assert data.features is not None
            assert torch.equal(inputs, data.features.prepare(torch.from_numpy(arrays.test_inputs)))


def test_a_loader_with_an_order_of_its_own_is_tested_on_a_pair_of_arrays(tmp_path: Path) -> None:
    loader = DataLoader(Digits(scaled), 50, sampler=WeightedRandomSampler([1.0] * 300, 100))
    whole = Digits(scaled)
    pair = torch.stack([image for image, _ in whole]), [label for _, label in whole]
    reports = []
    for test in (pair, whole):
        torch.manual_seed(0)
        reports.append(last_report(train((loader, test), tmp_path)))
    assert reports[0]["n"] == 300
    assert reports[0]["loss"] == reports[1]["loss"]
    assert reports[0]["confusion"] == reports[1]["confusion"]


@pytest.mark.parametrize("limit", [ROOM, 1000])
@pytest.mark.parametrize(
    ("test", "key"),
    [
        ((np.zeros((3, 1, 8, 8), np.uint8), np.zeros(4, int)), "unequal-counts"),
        ((np.zeros((3, 1, 8, 8), np.float32), np.zeros(3, int)), "other-dtype"),
        (np.zeros((3, 1, 8, 8), np.uint8), "no-split-of-dataset"),
        ("digits", "no-split-of-dataset"),
    ],
)
def test_what_cannot_be_tested_on_is_refused_when_the_data_is_opened(limit: int, test: Any, key: str) -> None:
    for source in (Digits(), DataLoader(Digits(), sampler=WeightedRandomSampler([1.0] * 300, 100))):
        with pytest.raises(RushlightError) as caught:
            opened(source, test, memory_limit=limit)
        assert caught.value.key == key


def test_class_names_in_arrays_to_test_streamed_data_on_are_refused_at_the_start() -> None:
    test = np.zeros((3, 1, 8, 8), np.float32), np.array(["a", "b", "c"])
    with pytest.raises(DataError) as caught:
        opened(Digits(jittered), test)
    assert caught.value.key == "streamed-texts"
