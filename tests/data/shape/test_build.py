"""From raw samples to data: the split, the checks, and what is learnt on the training split."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rushlight.data import retarget
from rushlight.data.feed.resident import ResidentSplit
from rushlight.data.shape.build import build_data, fingerprint, learn_normalization, mean_and_std
from rushlight.data.shape.samples import Samples, cut_samples, cut_splits, split_indices
from rushlight.data.sources.named.named import open_named
from rushlight.data.spec import TargetSpec
from rushlight.data.splits import Data
from rushlight.errors import DataError

TWO = TargetSpec("classification", ("no", "yes"))
QUANTITY = TargetSpec("regression", width=1)


def build(inputs: Tensor, targets: Tensor, target: TargetSpec = TWO, **options: Any) -> Data:
    return build_data("mine", "array", Samples(inputs, targets), None, target, **options)


# ── the cut ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), fraction=st.floats(0, 0.99), seed=st.integers(0, 99),
    stratified=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_cut_loses_no_sample_doubles_none_and_repeats(
    labels: list[int], fraction: float, seed: int, stratified: bool
) -> None:
    array = np.array(labels)
    train, test = split_indices(array, fraction, seed, stratified=stratified)
    assert sorted([*train, *test]) == list(range(len(labels)))
    again = split_indices(array, fraction, seed, stratified=stratified)
    assert train.tolist() == again[0].tolist()
    groups = [array == value for value in set(labels)] if stratified else [np.ones(len(labels), dtype=bool)]
    for group in groups:
        count, held = int(group.sum()), int(group[test].sum())
        assert held < count  # every class keeps a sample to train on
        if fraction > 0 and count > 1:
            assert held == min(max(round(fraction * count), 1), count - 1)


def test_the_note_of_a_cut_tells_numbers_and_seed() -> None:
    samples = Samples(torch.zeros(50, 2), torch.arange(50) % 2)
    train, validation, test, (note,) = cut_samples(samples, TWO, test_fraction=0.2, val_fraction=None, seed=3)
    assert test is not None
    assert validation is None
    assert (len(train.inputs), len(test.inputs)) == (40, 10)
    assert test.targets.bincount().tolist() == [5, 5]
    assert "10 of 50 samples" in note
    assert "(seed 3)" in note
    uncut = cut_samples(samples, TWO, test_fraction=0, val_fraction=0, seed=3)
    assert uncut == (samples, None, None, ("There is no test split.",))


def test_a_validation_cut_leaves_the_test_cut_as_it_is_and_has_a_draw_of_its_own() -> None:
    labels = np.arange(100) % 2
    options = {"test_fraction": 0.2, "seed": 3, "stratified": True}
    alone, both = cut_splits(labels, val_fraction=None, **options), cut_splits(labels, val_fraction=0.25, **options)
    assert alone.test is not None
    assert both.test is not None
    assert both.validation is not None
    assert both.test.tolist() == alone.test.tolist()
    assert sorted([*both.train, *both.validation]) == alone.train.tolist()
    assert np.bincount(labels[both.validation]).tolist() == [10, 10]
    assert (
        "20 of 80 training samples were set aside for validation, the same share of every class (seed 3)"
        in both.notes[1]
    )
    by_hand = np.random.Generator(np.random.PCG64(zlib.crc32(b"validation/3")))  # the formula, written out
    groups = [by_hand.permutation(np.flatnonzero(labels[alone.train] == value))[:10] for value in (0, 1)]
    assert both.validation.tolist() == alone.train[np.sort(np.concatenate(groups))].tolist()


# ── the checks ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("inputs", "targets", "target", "key", "said"),
    [
        (torch.zeros(3, 2), torch.tensor([0, 1]), TWO, "unequal-counts", "3 inputs and 2 targets"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), TWO, "empty-split", "train split"),
        (torch.tensor([[0.0], [math.nan]]), torch.tensor([0, 1]), TWO, "not-finite", "sample 1, value 0: nan"),
        (torch.tensor([[0.0], [-math.inf]]), torch.tensor([0, 1]), TWO, "not-finite", "-inf"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [math.nan]]), QUANTITY, "not-finite", "have targets that are not"),
        (torch.zeros(3, 1), torch.tensor([1, 2, 1]), TWO, "labels-out-of-range", "run from 1 to 2; 1 are outside"),
        (torch.zeros(3, 1), torch.tensor([0, 1, -1]), TWO, "labels-out-of-range", "sample 2 with label -1"),
        (torch.zeros(3, 1), torch.tensor([1, 1, 1]), TWO, "one-class", '"yes"'),
    ],
)
def test_bad_samples_are_refused_with_where_they_are(
    inputs: Tensor, targets: Tensor, target: TargetSpec, key: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        build(inputs, targets, target)
    assert caught.value.key == key
    assert said in caught.value.problem


# ── normalisation ────────────────────────────────────────────────────────────────────────────────────────────


def test_standardised_digits_have_mean_zero_and_spread_one_on_the_training_split() -> None:
    arrays = open_named("digits")
    train = Samples(torch.from_numpy(arrays.train_inputs), torch.from_numpy(arrays.train_targets))
    test = Samples(torch.from_numpy(arrays.test_inputs), torch.from_numpy(arrays.test_targets))
    data = build_data("digits", "image", train, test, TargetSpec("classification", tuple(arrays.classes)))
    ((inputs, _),) = data.train.batches(10**6, seed=0, epoch=1)
    assert float(inputs.double().mean()) == pytest.approx(0, abs=1e-6)
    assert float(inputs.double().std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert data.features is not None
    assert data.features.normalization.mean[0] == pytest.approx(arrays.train_inputs.mean() / 255, rel=1e-9)
    assert data.test is not None
    ((tested, _),) = data.test.in_order(10**6)
    assert torch.equal(tested, data.features.prepare(test.inputs))  # by the training split's figures


@given(shift=st.floats(-1e6, 1e6), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_mean_and_spread_are_numpys_even_far_from_zero(shift: float, scale: float, seed: int) -> None:
    values = (np.random.default_rng(seed).normal(size=(100, 3)) * scale + shift).astype(np.float32)
    mean, std = mean_and_std(torch.from_numpy(values), 1)
    np.testing.assert_allclose(mean, values.astype(np.float64).mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, values.astype(np.float64).std(0), rtol=1e-6, atol=1e-9)


def test_a_constant_column_becomes_zeros() -> None:
    data = build(torch.tensor([[5.0, 1.0], [5.0, 2.0]]), torch.tensor([0, 1]))
    ((inputs, _),) = data.train.batches(2, seed=0, epoch=1)
    assert inputs[:, 0].tolist() == [0.0, 0.0]
    assert sorted(inputs[:, 1].tolist()) == [-1.0, 1.0]


def test_unit_is_totensors_scaling_and_none_does_nothing() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    unit = learn_normalization(pixels, "image", "unit").apply(pixels, 1)
    assert torch.equal(unit, pixels.float() / 255)
    assert torch.equal(learn_normalization(pixels, "image", "none").apply(pixels, 1), pixels.float())


def test_regression_targets_are_standardised_and_come_back_in_their_units() -> None:
    prices = torch.tensor([[1e6], [2e6], [6e6]])
    opened = build(torch.rand(3, 2), prices, QUANTITY)
    assert isinstance(opened.train, ResidentSplit)
    assert torch.equal(opened.train.targets, prices)  # no loss is known yet
    data = retarget(opened, QUANTITY)
    assert data.target is not None
    assert isinstance(data.train, ResidentSplit)
    assert float(data.train.targets.mean()) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(data.target.in_units(data.train.targets), prices)
    assert "Targets are standardised" in data.notes[-1]
    for unscaled in (build(torch.rand(3, 2), prices, QUANTITY, normalize="none"), opened.unscaled()):
        plain = retarget(unscaled, QUANTITY)
        assert plain.target == QUANTITY
        assert isinstance(plain.train, ResidentSplit)
        assert torch.equal(plain.train.targets, prices)


# ── the fingerprint ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_fingerprint_notices_one_bit_the_dtype_and_the_shape() -> None:
    inputs, targets = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])
    base = fingerprint(Samples(inputs, targets), None, None)
    assert fingerprint(Samples(inputs.clone(), targets.clone()), None, None) == base
    changed = inputs.clone()
    changed[2, 1] = torch.nextafter(changed[2, 1], torch.tensor(9.0))
    others = [
        fingerprint(Samples(changed, targets), None, None),
        fingerprint(Samples(inputs.reshape(4, 1, 3), targets), None, None),
        fingerprint(Samples(inputs.to(torch.uint8), targets), None, None),
        fingerprint(Samples(inputs, targets.flip(0)), None, None),
        fingerprint(Samples(inputs, targets), None, Samples(inputs, targets)),
        fingerprint(Samples(inputs, targets), Samples(inputs, targets), None),
    ]
    assert len({base, *others}) == 7
