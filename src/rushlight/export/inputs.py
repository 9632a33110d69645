"""The inputs of `predict`, as batches of raw values in the dtype and shape of the training data.

Arrays are viewed, not copied, and converted a batch at a time, so a mapped file larger than memory can be predicted.
`predict` and a server read their inputs here; nothing needs torch where no tensors are given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rushlight import files
from rushlight.data import Column, FeatureSpec, reading_floats
from rushlight.errors import DataError
from rushlight.texts import Joined, Note

Array = np.ndarray[Any, np.dtype[Any]]


def open_inputs(inputs: Any, features: FeatureSpec) -> Array:
    """Return the inputs as an array; paths, PIL images and tables are read by the data's own readers."""
    with reading_floats(features.floats):
        if features.tokens is not None:
            inputs = texts_as_rows(inputs, features)
        inputs = Path(inputs) if isinstance(inputs, (str, os.PathLike)) else inputs
        if isinstance(inputs, Path) and inputs.suffix.lower() == ".npy":
            try:
                files.open_file(inputs).close()
                inputs = np.load(inputs, mmap_mode="r", allow_pickle=False)
            except Exception as error:  # NumPy's reader raises whatever a broken header leads it to
                raise DataError("predict-file", path=inputs, expected=describe_inputs(features)) from error
        if features.kind == "image":
            images = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if images and all(map(is_image_source, images)):
                if features.dtype != "uint8":  # a file does not tell on which scale the floats of training were
                    raise dtype_error(features, Note("export.image-files"), "scale-images")
                from rushlight.data import read_image

                return np.stack([read_image(image, features) for image in images])
        if features.kind == "table" and (is_by_column(inputs) or is_raw_rows(inputs, features)):
            if are_plain_rows(inputs):
                from rushlight.data import encode_rows

                return encode_rows(inputs, features)
            from rushlight.data import read_rows

            return read_rows(inputs, features).numpy()
        if isinstance(inputs, Path):
            raise DataError("predict-file", path=inputs, expected=describe_inputs(features))
        return as_numbers(inputs, features)


def read_raw(inputs: Any, features: FeatureSpec) -> Array:
    """Return inputs as one batch of raw values, (n, *features.shape) in the stored dtype; DataError for what does not fit."""
    if isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8 and features.dtype == "uint8":
        raw: Array = inputs
        if raw.ndim and raw.shape[1:] == features.shape:
            return raw  # which nothing that follows would change
    return stored(batched(open_inputs(inputs, features), features), features, 0)


def texts_as_rows(inputs: Any, features: FeatureSpec) -> Any:
    """Return a text, a sequence of texts, or a text file (a `Path` to .txt) as rows of the text column; all else as it is."""
    name = features.columns[0].name
    if isinstance(inputs, Path) and inputs.suffix.lower() == ".txt":
        from rushlight.data import read_text_file

        return [{name: read_text_file(inputs)}]
    if isinstance(inputs, str):
        return [{name: inputs}]
    if len(getattr(inputs, "shape", ())) == 1:  # an array, or a column of polars or pandas
        inputs = inputs.to_list() if hasattr(inputs, "to_list") else inputs.tolist()
    is_text = isinstance(inputs, (list, tuple)) and bool(inputs) and all(isinstance(each, str) for each in inputs)
    return [{name: each} for each in inputs] if is_text else inputs


def is_image_source(value: Any) -> bool:
    """Tell whether a value is a path, a PIL image or an image file's bytes; PIL is not imported to find out."""
    is_pil = any(base.__module__.startswith("PIL.") for base in type(value).__mro__)
    return is_pil or isinstance(value, (str, bytes, os.PathLike))


def is_by_column(inputs: Any) -> bool:
    """Whether the inputs are a table by column names: a path, a DataFrame, a dict of columns, a list of dicts."""
    if isinstance(inputs, (Path, dict)) or hasattr(inputs, "columns"):
        return True
    return isinstance(inputs, (list, tuple)) and bool(inputs) and all(isinstance(row, dict) for row in inputs)


def are_plain_rows(inputs: Any) -> bool:
    """Whether the inputs are a list of dicts that hold what JSON and CSV have: text, numbers and gaps."""
    if not isinstance(inputs, (list, tuple)):
        return False
    return all(cell is None or isinstance(cell, (str, int, float)) for row in inputs for cell in row.values())


def is_raw_rows(inputs: Any, features: FeatureSpec) -> bool:
    """Whether an array holds a table's columns as they were in the file, not yet the numbers they become."""
    if features.time or not hasattr(inputs, "dtype") or tuple(inputs.shape[1:]) != (len(features.columns),):
        return False
    is_text = isinstance(inputs, np.ndarray) and inputs.dtype.kind not in "biuf"
    return is_text or features.shape != (len(features.columns),)


def as_numbers(inputs: Any, features: FeatureSpec) -> Array:
    """Return numbers as an array, as a view where they are in memory; DataError for what is no array of numbers."""
    try:
        if isinstance(inputs, np.ndarray) or "torch" not in sys.modules:  # no tensors among it then
            array = np.asarray(inputs)
        else:
            from rushlight.data import as_array

            array = as_array(inputs, "", "")
    except (DataError, ValueError) as error:  # rows of different lengths
        raise shape_error(features, Note("export.unequal-parts")) from error
    if isinstance(inputs, np.ma.MaskedArray) and np.ma.is_masked(inputs):
        raise dtype_error(features, Note("export.masked"), "fill")
    if array.dtype.kind == "c":
        raise dtype_error(features, Note("export.complex"), "real")
    if array.dtype.kind not in "biuf":
        known = {"U": "export.text", "S": "export.text", "O": "export.objects"}
        found = Note(known.get(array.dtype.kind, "export.values-of"), dtype=array.dtype)
        raise dtype_error(features, found, "columns-by-name" if features.kind == "table" else "to-numbers")
    return array


def batched(raw: Array, features: FeatureSpec) -> Array:
    """Return the inputs as (n, *features.shape), as a view; raises DataError for any other shape.

    Images may also have their channels last, and grey ones no channel at all.
    """
    found, wanted = raw.shape, features.shape
    if found == (0,):
        return raw.reshape((0, *wanted))
    if features.fits(found[1:]):
        return raw
    if features.fits(found):
        return raw[None]
    if features.kind == "image":
        channels, height, width = wanted
        if found[-3:] == (height, width, channels) and len(found) in (3, 4):
            moved = np.moveaxis(raw, -1, -3)
            return moved if len(found) == 4 else moved[None]
        if channels == 1 and found[-2:] == (height, width) and len(found) in (2, 3):
            return raw[:, None] if len(found) == 3 else raw[None, None]
    raise shape_error(features, str(found))


def stored(part: Array, features: FeatureSpec, first: int) -> Array:
    """Return one batch, whose first sample is number `first`, in the stored dtype; DataError for values it cannot hold."""
    if features.dtype.startswith("float"):
        with np.errstate(over="ignore"):
            batch = part.astype(features.dtype, copy=False)
        is_finite = np.isfinite(batch)
        if not is_finite.all():
            sample, *position = np.argwhere(~is_finite)[0].tolist()
            place = position[0] if len(position) == 1 else tuple(position)
            value = batch[(sample, *position)].item()
            raise DataError("predict-not-finite", sample=first + sample, position=place, value=value)
        return batch
    if part.dtype.kind not in "iu":
        is_share = features.dtype == "uint8" and part.size and part.max() <= 1
        found, hint = Note("export.values-of", dtype=part.dtype.name), "images-to-bytes" if is_share else "as-stored"
        raise dtype_error(features, found, hint)
    if features.dtype == "uint8" and part.size and not 0 <= part.min() <= part.max() <= 255:
        found = Note("export.values-from", low=part.min().item(), high=part.max().item())
        raise dtype_error(features, found, "bytes")
    if (tokens := features.tokens) and part.size and not 0 <= part.min() <= part.max() < tokens.vocabulary:
        found = Note("export.values-from", low=part.min().item(), high=part.max().item())
        raise dtype_error(features, found, "tokens")
    return part.astype(features.dtype, copy=False)


def hidden_row(columns: Sequence[Column]) -> Array:
    """Return what stands for the columns of a table that are hidden, (features,), raw as stored.

    A number or a date is its training mean, and not missing; a category is none that is known, as an unknown one is.
    """
    widths = [column.width for column in columns]
    found = np.zeros(sum(widths))
    for first, column in zip(np.cumsum([0, *widths]), columns, strict=False):
        if column.width and column.kind != "category":
            found[first] = column.fill
    return found


def describe_inputs(features: FeatureSpec) -> Note:
    """Return in words what the model takes."""
    shape = f"(n, {', '.join(map(str, features.shape))})"
    if features.kind == "image":
        sides = dict(zip(("channels", "height", "width"), features.shape, strict=True))
        return Note("export.takes-images", shape=shape, dtype=features.dtype, **sides)
    if features.tokens is not None:
        return Note("export.takes-texts", name=features.columns[0].name, shape=shape)
    return Note(
        "export.takes-numbers" if features.dtype.startswith("float") else "export.takes-whole-numbers", shape=shape
    )


def shape_error(features: FeatureSpec, found: str) -> DataError:
    """Return the error for inputs of another shape."""
    key = "last-dimension" if len(features.shape) == 1 else "last-dimensions"
    hint = Note(
        f"export.hint.{'resize' if features.kind == 'image' else key}", size=Joined("list", map(str, features.shape))
    )
    return DataError("predict-shape", expected=describe_inputs(features), found=found, hint=hint)


def dtype_error(features: FeatureSpec, found: str, hint: str) -> DataError:
    """Return the error for inputs of another dtype; `hint` is one of the keys in `export.hint`."""
    hint = Note(f"export.hint.{hint}", dtype=features.dtype)
    return DataError("predict-dtype", expected=describe_inputs(features), found=found, hint=hint)
