"""The validation split: given apart, brought by the source, or cut from the training samples; nothing leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from rushlight.data.feed.loader import LoaderSplit
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.feed.streamed import StreamedSplit
from rushlight.data.open import DataOptions, open_like, open_source, retarget
from rushlight.data.splits import Data
from rushlight.errors import DataError, UsageError

CUT = DataOptions(val_fraction=0.25)
X = np.random.default_rng(0).normal(size=(200, 3)).astype("float32") * 50 + 7
Y = np.arange(200) % 2


def counts(data: Data) -> dict[str, int | None]:
    return {name: split.samples for name, split in data.splits.items()}


def batch_of(split: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ((inputs, targets),) = split.in_order(10**6)
    return inputs, targets


def images_in(root: Path, count: int = 8) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (4, 4), number * 100 + index).save(root / name / f"{index}.png")
    return root


def table(path: Path, rows: int = 40) -> Path:
    path.write_text("a,y\n" + "".join(f"{i * 0.37 % 1},{'red' if i % 2 else 'blue'}\n" for i in range(rows)))
    return path


# ── cut from the training samples ────────────────────────────────────────────────────────────────────────────


def cut_twice(source: Any, **options: Any) -> tuple[Data, Data]:
    """Open the source without and with a validation cut of a quarter."""
    return tuple(open_source(source, options=DataOptions(**options, val_fraction=share)) for share in (None, 0.25))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["arrays", "files", "named", "table", "images", "dataset"])
def test_a_fraction_is_cut_from_train_alone_and_the_test_split_stays_the_same(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    source: Any = {
        "arrays": lambda: (X, Y),
        "files": lambda: tmp_path / "a.npz",
        "named": lambda: "digits",
        "table": lambda: table(tmp_path / "t.csv"),
        "images": lambda: images_in(tmp_path / "images", 20),
        "dataset": lambda: TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    }[kind]()
    without, data = cut_twice(source, target="y" if kind == "table" else None)
    assert without.validation is None
    assert data.test is not None
    assert without.test is not None
    assert isinstance(data.validation, ResidentSplit)
    assert isinstance(data.train, ResidentSplit)
    assert data.train.samples + data.validation.samples == without.train.samples
    assert torch.equal(batch_of(data.test)[1], batch_of(without.test)[1])
    share = data.validation.targets.bincount() / (data.validation.targets.bincount() + data.train.targets.bincount())
    assert share.tolist() == pytest.approx([0.25] * len(share), abs=0.04)  # of every class
    assert data.fingerprint not in (without.fingerprint, without.fingerprint.split("-")[0])
    assert sum("set aside for validation" in note for note in data.notes) == 1
    assert not any("set aside for validation" in note for note in without.notes)


def test_normalisation_is_learnt_without_the_validation_samples() -> None:
    data = open_source((X, Y), options=CUT)
    assert isinstance(data.train, ResidentSplit)
    assert data.validation is not None
    assert data.features is not None
    raw = data.train.inputs * torch.tensor(data.features.normalization.std) + torch.tensor(
        data.features.normalization.mean
    )
    assert data.features.normalization.mean == pytest.approx(raw.double().mean(0).tolist(), rel=1e-5)
    assert data.features.normalization.mean != pytest.approx(X.mean(0).tolist(), rel=1e-5)


def test_the_columns_of_a_table_are_learnt_without_the_validation_rows(tmp_path: Path) -> None:
    plain = open_source(table(tmp_path / "a.csv"), options=DataOptions(target="y", val_fraction=0.25))
    assert plain.validation is not None
    rows = (tmp_path / "a.csv").read_text().splitlines()
    kept = {round(float(value), 4) for value in restored(plain, plain.validation)}
    marked = [
        rows[0],
        *(
            f"{line},{'secret' if round(float(line.split(',')[0]), 4) in kept else 'uv'[n % 2]}"
            for n, line in enumerate(rows[1:])
        ),
    ]
    (tmp_path / "b.csv").write_text("\n".join([f"{marked[0]},z", *marked[1:]]) + "\n")
    data = open_source(tmp_path / "b.csv", options=DataOptions(target="y", val_fraction=0.25))
    assert data.features is not None
    assert data.features.columns[1].categories == ("u", "v")


def restored(data: Data, split: Any) -> list[float]:
    """Return the first column's values of a split as they stood in the file."""
    assert data.features is not None
    spec = data.features.normalization
    return (split.inputs[:, 0] * spec.std[0] + spec.mean[0]).tolist()


def test_a_streamed_dataset_is_cut_by_index_the_same_share_of_every_class() -> None:
    class Noisy(TensorDataset):
        targets = Y.tolist()

        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x + torch.rand(()) * 0, y

    data = open_source(Noisy(torch.from_numpy(X), torch.from_numpy(Y)), options=CUT)
    assert isinstance(data.train, StreamedSplit)
    assert isinstance(data.validation, StreamedSplit)
    inputs, targets = batch_of(data.validation)
    assert targets.bincount().tolist() == [25, 25]
    together = torch.cat([inputs, batch_of(data.train)[0]])
    assert sorted(together[:, 0].tolist()) == sorted(X[:, 0].tolist())


@pytest.mark.parametrize("kind", ["loader", "iterable"])
def test_what_has_an_order_of_its_own_cannot_be_cut_and_the_error_says_the_way_out(kind: str) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return zip(torch.from_numpy(X), torch.from_numpy(Y), strict=True)

    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    source = DataLoader(dataset, 8, drop_last=True) if kind == "loader" else Stream()
    with pytest.raises(UsageError, match="val_data=") as caught:
        open_source(source, options=CUT)
    assert caught.value.key == "loader-not-cut"
    data = open_source(source, validation=dataset)
    assert isinstance(data.train, LoaderSplit)
    assert isinstance(data.validation, StreamedSplit)
    assert data.validation.samples == 200


# ── given apart, or brought by the source ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["arrays", "named", "images", "dataset"])
def test_validation_data_given_apart_is_prepared_as_the_training_data(kind: str, tmp_path: Path) -> None:
    own = {
        "arrays": lambda: ((X, Y), (X[:7], Y[:7])),
        "named": lambda: ("digits", (np.full((3, 1, 8, 8), 9, np.uint8), np.array([0, 1, 2]))),
        "images": lambda: (images_in(tmp_path / "a"), images_in(tmp_path / "b", 2)),
        "dataset": lambda: (
            TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), DataLoader(TensorDataset(torch.from_numpy(X[:7]), torch.from_numpy(Y[:7])), 10**6)
        ),
    }  # fmt: skip
    source, validation = own[kind]()
    without, data = open_source(source), open_source(source, validation=validation)
    assert (without.features, without.target) == (data.features, data.target)
    assert data.validation is not None
    assert data.features is not None
    assert data.target is not None
    tested = open_like(validation, data.features, data.target, DataOptions())
    for found, expected in zip(batch_of(data.validation), batch_of(tested), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(batch_of(data.train)[0], batch_of(without.train)[0])
    assert data.fingerprint == without.fingerprint or data.fingerprint.startswith(f"{without.fingerprint}-")


def test_a_table_is_validated_on_another_file_with_the_columns_that_were_learnt(tmp_path: Path) -> None:
    options = DataOptions(target="y")
    data = open_source(table(tmp_path / "t.csv"), validation=table(tmp_path / "v.csv", 6), options=options)
    assert counts(data) == {"train": 32, "validation": 6, "test": 8}
    assert any('Validated on "v.csv"' in note for note in data.notes)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_stored_arrays_bring_a_validation_split_and_alone_it_is_what_is_tested(name: str, tmp_path: Path) -> None:
    arrays = {"x_train": X, "y_train": Y, f"x_{name}": X[:9], f"y_{name}": Y[:9]}
    np.savez(tmp_path / "alone.npz", **arrays)
    assert counts(open_source(tmp_path / "alone.npz")) == {"train": 200, "test": 9}
    np.savez(tmp_path / "both.npz", **arrays, x_test=X[:4], y_test=Y[:4])
    data = open_source(tmp_path / "both.npz", options=CUT)
    assert counts(data) == {"train": 200, "validation": 9, "test": 4}


def test_three_splits_in_one_tuple_are_train_validation_and_test() -> None:
    pairs = ((X, Y), (X[:9], Y[:9]), (X[:4], Y[:4]))
    assert counts(open_source(pairs)) == {"train": 200, "validation": 9, "test": 4}
    datasets = [TensorDataset(torch.from_numpy(x), torch.from_numpy(y)) for x, y in pairs]
    assert counts(open_source(tuple(datasets))) == {"train": 200, "validation": 9, "test": 4}
    assert counts(open_source((pairs[0], pairs[2]), validation=pairs[1])) == counts(open_source(pairs))


def test_a_fraction_beside_validation_data_is_refused_and_validation_beside_open_data() -> None:
    with pytest.raises(UsageError) as caught:
        open_source((X, Y), validation=(X, Y), options=CUT)
    assert caught.value.key == "two-validation-splits"
    with pytest.raises(UsageError, match="val_data") as caught:
        open_source(open_source((X, Y)), validation=(X, Y))
    assert caught.value.key == "option-of-other-data"
    with pytest.raises(UsageError, match="val_fraction"):
        open_source(open_source((X, Y)), options=CUT)


def test_validation_samples_of_another_shape_are_refused_by_the_splits_name() -> None:
    with pytest.raises(DataError, match="validation sample") as caught:
        open_source((X, Y), validation=(X[:, :2], Y))
    assert caught.value.key == "shapes-differ"
    with pytest.raises(DataError, match="validation targets") as caught:
        open_source((X, Y), validation=(X[:2], np.array(["a", "b"])))
    assert caught.value.key == "targets-differ"


# ── carried along ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_binary_task_changes_the_targets_of_all_three_splits() -> None:
    data = open_source((X, Y), options=CUT)
    assert data.target is not None
    binary = retarget(data, replace(data.target, task="binary"))
    for split in binary.splits.values():
        assert batch_of(split)[1].shape == (split.samples, 1)


def test_the_options_of_a_cut_come_back_from_json_and_other_data_is_not_cut_by_them() -> None:
    assert CUT.to_json() == {"val_fraction": 0.25}
    assert DataOptions.from_json(CUT.to_json()) == CUT
    data = open_source((X, Y), options=CUT)
    assert data.features is not None
    assert data.target is not None
    assert open_like((X, Y), data.features, data.target, CUT).samples == 200
