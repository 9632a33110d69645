"""Predicting: whatever shape an input comes in, the model sees what it was trained on, or an error says why not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from rushlight.data.spec import Column, FeatureSpec, Normalization, TargetSpec
from rushlight.errors import DataError, ModelError, RushlightError, UsageError
from rushlight.export.predictions import Predictions, predict

VECTOR = FeatureSpec("array", (6,), "float32")
GREY = FeatureSpec("image", (1, 8, 7), "uint8", Normalization("standard", 255.0, (0.3,), (0.2,)))
COLOUR = FeatureSpec("image", (3, 8, 7), "uint8", Normalization("standard", 255.0, (0.3, 0.4, 0.5), (0.2, 0.2, 0.1)))
TOKENS = FeatureSpec("array", (4,), "int64")
THREE = TargetSpec("classification", ("cat", "dog", "cow"))


def model_for(features: FeatureSpec, outputs: int = 3) -> nn.Module:
    torch.manual_seed(5)
    if features.dtype == "int64":
        return nn.Sequential(nn.Embedding(50, 3), nn.Flatten(), nn.Linear(3 * features.size, outputs))
    return nn.Sequential(nn.Flatten(), nn.Linear(features.size, outputs))


class Remembers(nn.Module):
    """Keeps what it was given, and answers with fixed outputs."""

    def __init__(self, outputs: Tensor | None = None) -> None:
        super().__init__()
        self.outputs, self.seen = outputs, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.zeros(len(x), 3) if self.outputs is None else self.outputs[: len(x)]


def seen(inputs: Any, features: FeatureSpec, **options: Any) -> Tensor:
    model = Remembers()
    predict(model, inputs, features, THREE, **options)
    return torch.cat(model.seen)


def refused(inputs: Any, features: FeatureSpec) -> str:
    with pytest.raises(DataError) as caught:
        predict(Remembers(), inputs, features, THREE)
    return str(caught.value)


def answers(outputs: list[list[float]], target: TargetSpec) -> Predictions:
    return predict(Remembers(torch.tensor(outputs)), np.zeros((len(outputs), 6), np.float32), VECTOR, target)


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────────────


def test_classification_gives_names_and_probabilities() -> None:
    result = answers([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], THREE)
    assert result.labels.tolist() == ["dog", "cat"]
    np.testing.assert_allclose(result.probabilities[0], np.exp([0, 2, 1]) / np.exp([0, 2, 1]).sum(), rtol=1e-6)
    assert result.probabilities.dtype == np.float32
    assert len(result) == 2
    assert result.values is None
    assert [name for name, _ in result.top(2)[0]] == ["dog", "cow"]
    assert result.top(1)[1][0] == ("cat", float(result.probabilities[1, 0]))
    assert len(result.top(99)[0]) == 3


def test_binary_gives_two_probabilities_that_add_up_to_one() -> None:
    target = TargetSpec("binary", ("no", "yes"))
    result = answers([[-2.0], [3.0], [0.0], [-60.0]], target)
    assert result.labels.tolist() == ["no", "yes", "no", "no"]
    assert result.probabilities.shape == (4, 2)
    np.testing.assert_allclose(result.probabilities[1, 1], 1 / (1 + np.exp(-3)), rtol=1e-6)
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-6)


def test_multilabel_joins_the_labels_above_one_half() -> None:
    result = answers([[2.0, -1.0, 0.1], [-1.0, -1.0, -1.0]], TargetSpec("multilabel", ("red", "big", "new")))
    assert result.labels.tolist() == ["red, new", ""]
    np.testing.assert_allclose(result.probabilities[0], 1 / (1 + np.exp([-2, 1, -0.1])), rtol=1e-6)


def test_regression_comes_back_in_the_datas_units() -> None:
    target = TargetSpec("regression", width=2, mean=(10.0, 0.0), std=(2.0, 0.5))
    result = answers([[1.0, 2.0], [0.0, -2.0]], target)
    assert result.values.tolist() == [[12.0, 1.0], [10.0, -1.0]]
    assert result.labels is None
    assert np.asarray(result).tolist() == result.values.tolist()
    with pytest.raises(UsageError, match="values"):
        result.top(1)


def test_one_output_without_a_dimension_of_its_own_is_taken() -> None:
    result = predict(Remembers(torch.tensor([1.0, 2.0])), np.zeros((2, 6)), VECTOR, TargetSpec("regression"))
    assert result.values.tolist() == [[1.0], [2.0]]


def test_predictions_are_an_array_wherever_numpy_wants_one() -> None:
    result = answers([[0.0, 2.0, 1.0]], THREE)
    assert np.asarray(result) is result.probabilities
    assert np.asarray(result, dtype=np.float64).dtype == np.float64
    assert np.array(result) is not result.probabilities
    assert np.argmax(result) == 1
    with pytest.raises(ValueError, match="Unable to avoid copy"):
        result.__array__(np.float64, copy=False)


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (THREE, (0, 3)),
        (TargetSpec("binary", ("no", "yes")), (0, 2)),
        (TargetSpec("multilabel", ("a", "b")), (0, 2)),
        (TargetSpec("regression", width=4), (0, 4)),
    ],
)
@pytest.mark.parametrize("inputs", [[], np.zeros((0, 6), np.float32), torch.zeros(0, 6)])
def test_no_samples_give_an_empty_result(target: TargetSpec, shape: tuple[int, ...], inputs: Any) -> None:
    result = predict(Remembers(), inputs, VECTOR, target)
    assert len(result) == 0
    assert np.asarray(result).shape == shape
    assert result.labels is None or result.labels.shape == (0,)


def test_a_model_with_other_outputs_is_named_with_both_counts() -> None:
    with pytest.raises(ModelError, match=r"gives \(2, 3\) for 2 samples; expected \(2, 4\)"):
        predict(Remembers(), np.zeros((2, 6)), VECTOR, TargetSpec("classification", ("a", "b", "c", "d")))


def test_answers_that_are_nan_are_never_given_a_label() -> None:
    with pytest.raises(ModelError, match="sample 1"):
        answers([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]], THREE)


# ── the model is left as it was ──────────────────────────────────────────────────────────────────────────────


def test_the_model_is_asked_in_eval_mode_and_every_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.9), nn.BatchNorm1d(3))
    model.train()
    model[2].eval()  # a frozen BatchNorm
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = np.ones((4, 6), np.float32)
    first, second = predict(model, x, VECTOR, THREE), predict(model, x, VECTOR, THREE)
    assert (np.asarray(first) == np.asarray(second)).all()
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_modes_come_back_after_an_error_too() -> None:
    model = model_for(VECTOR).train()
    with pytest.raises(DataError):
        predict(model, np.full((2, 6), np.nan), VECTOR, THREE)
    assert model.training


def test_a_model_that_keeps_a_tensor_from_predicting_can_still_be_trained() -> None:
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.mask = nn.Linear(6, 3), None

        def forward(self, x: Tensor) -> Tensor:
            self.mask = torch.ones(6) if self.mask is None else self.mask
            return self.layer(x * self.mask)

    model = Caches()
    predict(model, np.ones((2, 6)), VECTOR, THREE)
    model(torch.ones(2, 6, requires_grad=True)).sum().backward()
    assert model.layer.weight.grad is not None


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_batches_cover_every_sample_once_in_order(size: int) -> None:
    x = np.arange(30, dtype=np.float32).reshape(5, 6)
    assert torch.equal(seen(x, VECTOR, batch_size=size), torch.from_numpy(x))


# ── arrays ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_float32_memory_reaches_the_model_without_a_copy() -> None:
    x = np.ones((4, 6), np.float32)
    assert seen(x, VECTOR).shape == (4, 6)
    for given_ in (x, torch.from_numpy(x)):
        model = Remembers()
        predict(model, given_, VECTOR, THREE)
        assert model.seen[0].data_ptr() == x.ctypes.data


@settings(deadline=None)
@given(
    arrays.arrays(
        st.sampled_from(["<f4", ">f4", "<f8", ">f8", "<f2", ">i2", "<u4", ">u8", "|i1", "|b1", "<i8", "g"]),
        st.tuples(st.integers(0, 5), st.just(6)),
        elements=st.integers(0, 1),
    ),
    st.sampled_from(["plain", "read-only", "reversed", "strided", "fortran", "list", "tensors", "single"]),
)
def test_any_dtype_and_layout_of_numpy_gives_the_same_numbers(x: np.ndarray, form: str) -> None:
    expected = torch.from_numpy(x.astype(np.float32))
    inputs: Any = x
    if form == "read-only":
        x.flags.writeable = False
    elif form == "reversed":
        inputs = x[::-1].copy()[::-1]
    elif form == "strided":
        inputs = np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3]
    elif form == "fortran":
        inputs = np.asfortranarray(x)
    elif form == "list":
        inputs = x.tolist()
    elif form == "tensors":
        inputs = [torch.from_numpy(row.astype(np.float64)) for row in x]
    elif form == "single" and len(x):
        inputs, expected = x[0], expected[:1]
    model = Remembers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = predict(model, inputs, VECTOR, THREE, batch_size=2)
    assert len(result) == len(expected)
    assert torch.equal(torch.cat([torch.zeros(0, 6), *model.seen]), expected)


def test_one_row_with_strides_that_torch_refuses_is_predicted() -> None:
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert torch.equal(seen(x[:1][::-1], VECTOR), torch.from_numpy(x[:1]))
    records = np.zeros(1, dtype=[("flag", "u1"), ("x", "<f4", (6,))])
    records["x"] = x[:1]
    assert torch.equal(seen(records["x"], VECTOR), torch.from_numpy(x[:1]))


@settings(deadline=None)
@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7)))
def test_a_float_array_is_either_predicted_or_explained(x: np.ndarray) -> None:
    try:
        result = predict(model_for(VECTOR), x, VECTOR, THREE)
        found = str(len(result))
    except RushlightError as error:
        found = error.key
    if x.shape[1:] != (6,) and x.shape not in ((6,), (0,)):
        assert found == "predict-shape"
    elif not np.isfinite(x).all():
        assert found == "predict-not-finite"
    else:  # finite inputs near the end of float32 may overflow inside the model
        assert found in ("1" if x.shape == (6,) else str(len(x)), "predict-broken-model")


def test_a_wrong_shape_is_told_with_what_was_expected() -> None:
    assert "the model takes (n, 6) numbers, this input is (3, 7)" in refused(np.zeros((3, 7)), VECTOR)
    assert "this input is ()" in refused(np.float32(1), VECTOR)
    assert "different lengths" in refused([[1, 2, 3, 4, 5, 6], [1, 2]], VECTOR)
    message = refused(np.zeros((2, 9, 9), np.uint8), GREY)
    assert "(n, 1, 8, 7) images in uint8 (channels 1, height 8, width 7), this input is (2, 9, 9)" in message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_no_float32_number_is_found_with_its_place(bad: float) -> None:
    x = np.zeros((700, 6))
    x[600, 4] = bad
    assert "sample 600" in refused(x, VECTOR)
    assert "value 4" in refused(x, VECTOR)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (np.array([["a"] * 6]), "text"),
        (np.array([[None] * 6]), "Python objects"),
        (np.zeros((2, 6), np.complex64), "complex numbers"),
        (torch.zeros(2, 6, dtype=torch.complex64), "complex numbers"),
        (np.ma.masked_equal(np.eye(6), 1), "masked values"),
        ("nowhere.txt", "cannot be read"),
        ({"a": [1]}, "Python objects"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(inputs: Any, found: str) -> None:
    assert found in refused(inputs, VECTOR)


def test_an_npy_file_is_read_and_a_pickled_one_is_not(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 6))
    np.save(tmp_path / "x.npy", x)
    assert torch.equal(seen(str(tmp_path / "x.npy"), VECTOR, batch_size=2), torch.from_numpy(x).float())
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "cannot be read" in refused(tmp_path / "bad.npy", VECTOR)


def test_whole_numbers_beyond_63_bits_do_not_wrap() -> None:
    x = np.full((2, 6), 2**63, np.uint64)
    assert torch.equal(seen(x, VECTOR), torch.full((2, 6), 2.0**63))


def test_token_ids_stay_whole_numbers() -> None:
    ids = np.array([[1, 2, 3, 49]], dtype=np.uint16)
    assert torch.equal(seen(ids, TOKENS), torch.tensor([[1, 2, 3, 49]]))
    assert torch.equal(seen([1, 2, 3, 49], TOKENS), torch.tensor([[1, 2, 3, 49]]))
    assert "float32 values" in refused(np.ones((1, 4), np.float32), TOKENS)


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────


def pixels(features: FeatureSpec, n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, *features.shape), dtype=np.uint8)


@pytest.mark.parametrize("features", [GREY, COLOUR])
def test_every_layout_of_images_reaches_the_model_as_in_training(features: FeatureSpec) -> None:
    images = pixels(features)
    expected = features.prepare(torch.from_numpy(images))
    last = np.moveaxis(images, 1, -1)
    forms: list[Any] = [
        images,
        last,
        torch.from_numpy(images),
        torch.from_numpy(last),
        images.tolist(),
        last.astype(int),
    ]
    forms += [images[:, 0]] if features is GREY else []
    for form in forms:
        assert torch.equal(seen(form, features), expected)
    single: list[Any] = [images[0], last[0], torch.from_numpy(images[0]), torch.from_numpy(last[0])]
    single += [images[0, 0]] if features is GREY else []
    for form in single:
        assert torch.equal(seen(form, features), expected[:1])


def test_images_from_zero_to_one_are_refused_with_what_to_write() -> None:
    message = refused(pixels(GREY) / 255, GREY)
    assert "float64 values" in message
    assert "(array * 255).round().astype('uint8')" in message
    assert "array.astype('uint8')" in refused(pixels(GREY).astype(np.float32), GREY)
    assert "values from 0 to 256" in refused(np.array([0, 256] * 28).reshape(1, 8, 7), GREY)


@pytest.mark.parametrize("features", [GREY, COLOUR])
def test_image_files_and_pil_images_are_predicted_as_their_arrays_are(tmp_path: Path, features: FeatureSpec) -> None:
    images = pixels(features)
    pictures = [Image.fromarray(image[0] if features is GREY else np.moveaxis(image, 0, -1)) for image in images]
    paths = [tmp_path / f"图 {number}.png" for number in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = features.prepare(torch.from_numpy(images))
    for form in (pictures, paths, [str(path) for path in paths], tuple(paths)):
        assert torch.equal(seen(form, features), expected)
    for single in (pictures[0], paths[0], str(paths[0])):
        assert torch.equal(seen(single, features), expected[:1])


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert "bad.png" in refused(tmp_path / "bad.png", GREY)
    assert "gone.png" in refused([tmp_path / "gone.png"], GREY)


def test_image_files_are_refused_where_training_saw_floats_of_unknown_scale(tmp_path: Path) -> None:
    Image.fromarray(pixels(GREY)[0, 0]).save(tmp_path / "a.png")
    assert "8-bit" in refused(tmp_path / "a.png", FeatureSpec("image", (1, 8, 7), "float32"))


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────

COLUMNS = (Column("age", "number", fill=40.0, flags_missing=True), Column("colour", "category", ("blue", "red")))
TABLE = FeatureSpec("table", (4,), "float32", columns=COLUMNS)
ENCODED = torch.tensor([[30.0, 0, 0, 1], [40.0, 1, 1, 0]])


def test_rows_in_every_form_are_encoded_as_in_training(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    (tmp_path / "rows.csv").write_text("colour,age\nred,30\nblue,\n")
    columns = {"age": [30.0, None], "colour": ["red", "blue"]}
    rows = [{"age": 30.0, "colour": "red"}, {"age": None, "colour": "blue"}]
    forms = [tmp_path / "rows.csv", str(tmp_path / "rows.csv"), columns, rows, polars.DataFrame(columns)]
    for form in forms:
        assert torch.equal(seen(form, TABLE), ENCODED)
    assert torch.equal(seen(rows[0], TABLE), ENCODED[:1])


def test_an_array_of_a_tables_own_columns_is_encoded_and_one_of_features_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    assert torch.equal(seen(ENCODED.numpy(), TABLE), ENCODED)
    assert torch.equal(seen(np.array([[30.0, "red"]], dtype=object), TABLE), ENCODED[:1])
    assert "(2, 3)" in refused(np.zeros((2, 3)), TABLE)
    assert "dict of columns" in refused([[30.0, "red"]], TABLE)
