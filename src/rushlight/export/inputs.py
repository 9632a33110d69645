"""What a user hands to `predict`, as batches of raw values in the dtype and shape of the training data.

Arrays are viewed, not copied, and converted a batch at a time, so a mapped file larger than memory can be predicted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rushlight.data import FeatureSpec
from rushlight.errors import DataError
from rushlight.texts import Joined, Note

Array = np.ndarray[Any, np.dtype[Any]]


def open_inputs(inputs: Any, features: FeatureSpec) -> Array | Tensor:
    """Return the inputs as an array or tensor; paths, PIL images and tables are read by the data's own readers."""
    inputs = Path(inputs) if isinstance(inputs, (str, os.PathLike)) else inputs
    if isinstance(inputs, Path) and inputs.suffix.lower() == ".npy":
        inputs = read_npy(inputs, features)
    if features.kind == "image" and (images := image_sources(inputs)) is not None:
        from rushlight.data import read_image

        if features.dtype != "uint8":  # a file does not tell on which scale the floats of training were
            raise dtype_error(features, Note("export.image-files"), Note("export.hint.scale-images"))
        return torch.stack([read_image(image, features) for image in images])
    if features.kind == "table" and (is_by_column(inputs) or is_raw_rows(inputs, features)):
        from rushlight.data import read_rows

        return read_rows(inputs, features)
    if isinstance(inputs, Path):
        raise DataError("predict-file", path=inputs, expected=described(features))
    return as_numbers(inputs, features)


def image_sources(inputs: Any) -> list[Any] | None:
    """Return the images' paths or PIL images as a list; None when the inputs are numbers."""
    parts = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    return parts if parts and all(map(is_image_source, parts)) else None


def is_image_source(value: Any) -> bool:
    """Tell whether a value is a path or a PIL image; PIL is not imported to find out."""
    is_pil = any(base.__module__.startswith("PIL.") for base in type(value).__mro__)
    return is_pil or isinstance(value, (str, os.PathLike))


def is_by_column(inputs: Any) -> bool:
    """Whether the inputs are a table by column names: a path, a DataFrame, a dict of columns, a list of dicts."""
    if isinstance(inputs, (Path, dict)) or hasattr(inputs, "columns"):
        return True
    return isinstance(inputs, (list, tuple)) and bool(inputs) and all(isinstance(row, dict) for row in inputs)


def is_raw_rows(inputs: Any, features: FeatureSpec) -> bool:
    """Whether an array holds a table's columns as they were in the file, not yet the numbers they become."""
    if not isinstance(inputs, (np.ndarray, Tensor)) or tuple(inputs.shape[1:]) != (len(features.columns),):
        return False
    is_text = isinstance(inputs, np.ndarray) and inputs.dtype.kind not in "biuf"
    return is_text or features.shape != (len(features.columns),)


def read_npy(path: Path, features: FeatureSpec) -> Array:
    """Read an `.npy` file of numbers, mapped rather than copied; pickled objects in it are refused."""
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError("predict-file", path=path, expected=described(features)) from error
    return array


def as_numbers(inputs: Any, features: FeatureSpec) -> Array | Tensor:
    """Return numbers as an array or tensor without copying; raises DataError for what is no array of numbers."""
    if isinstance(inputs, Tensor):
        return inputs.detach()
    if isinstance(inputs, (list, tuple)) and any(isinstance(part, Tensor) for part in inputs):
        inputs = [part.detach().cpu().numpy() if isinstance(part, Tensor) else part for part in inputs]
    try:
        array = np.asarray(inputs)
    except ValueError as error:  # rows of different lengths
        raise shape_error(features, Note("export.unequal-parts")) from error
    if isinstance(inputs, np.ma.MaskedArray) and np.ma.is_masked(inputs):
        raise dtype_error(features, Note("export.masked"), Note("export.hint.fill"))
    if array.dtype.kind not in "biuf":
        known = {"U": "export.text", "S": "export.text", "O": "export.objects", "c": "export.complex"}
        found = Note(known.get(array.dtype.kind, "export.values-of"), dtype=array.dtype)
        key = "export.hint.columns-by-name" if features.kind == "table" else "export.hint.to-numbers"
        raise dtype_error(features, found, Note(key))
    return array


def batched(raw: Array | Tensor, features: FeatureSpec) -> Array | Tensor:
    """Return the inputs as (n, *features.shape), as a view; raises DataError for any other shape."""
    found, wanted = tuple(raw.shape), features.shape
    if found == (0,):
        return raw.reshape((0, *wanted))
    if found[1:] == wanted:
        return raw
    if found == wanted:
        return raw[None]
    if features.kind == "image" and (view := as_channels_first(raw, wanted)) is not None:
        return view
    raise shape_error(features, str(found))


def as_channels_first(raw: Array | Tensor, wanted: tuple[int, ...]) -> Array | Tensor | None:
    """Return images with channels last, or grey ones without a channel, as a view (n, C, H, W); None if neither."""
    channels, height, width = wanted
    found = tuple(raw.shape)
    if found[-3:] == (height, width, channels) and len(found) in (3, 4):
        moved = raw.movedim(-1, -3) if isinstance(raw, Tensor) else np.moveaxis(raw, -1, -3)
        return moved if len(found) == 4 else moved[None]
    if channels == 1 and found[-2:] == (height, width) and len(found) in (2, 3):
        return raw[:, None] if len(found) == 3 else raw[None, None]
    return None


def stored(part: Array | Tensor, features: FeatureSpec, first: int) -> Tensor:
    """Return one batch in the stored dtype; raises DataError for values that dtype cannot hold."""
    batch = torch_view(part)
    if features.dtype == "float32":
        if batch.is_complex():
            raise dtype_error(features, Note("export.complex"), Note("export.hint.real"))
        return finite(batch.float(), first)
    wanted = getattr(torch, features.dtype)
    if batch.dtype == wanted:
        return batch
    if batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool:
        found = Note("export.values-of", dtype=str(batch.dtype).removeprefix("torch."))
        raise dtype_error(features, found, how_to_store(batch, features))
    if features.dtype == "uint8" and batch.numel() and not 0 <= batch.min() <= batch.max() <= 255:
        found = Note("export.values-from", low=batch.min().item(), high=batch.max().item())
        raise dtype_error(features, found, Note("export.hint.bytes"))
    return batch.to(wanted)


def torch_view(part: Array | Tensor) -> Tensor:
    """Return the batch as a tensor: of the same memory where torch can use it, else of a copy of this batch."""
    if isinstance(part, Tensor):
        return part
    if part.dtype.kind == "u" and part.dtype.itemsize > 1:
        part = part.astype(np.int64)  # torch computes little with wider unsigned numbers
    elif part.dtype.kind == "f" and part.dtype.itemsize > 8:
        part = part.astype(np.float64)  # long double
    if not part.dtype.isnative:
        part = part.astype(part.dtype.newbyteorder("="))
    part = np.ascontiguousarray(part)
    # torch warns about memory it may not write to, such as a mapped file; and an array of one row is contiguous to
    # NumPy with any stride along its rows, also with one that torch refuses
    fits = part.flags.writeable and all(stride >= 0 and stride % part.itemsize == 0 for stride in part.strides)
    return torch.from_numpy(part if fits else part.copy())


def finite(batch: Tensor, first: int) -> Tensor:
    """Return the batch; raises DataError that names the first value that is NaN or infinite."""
    bad = ~torch.isfinite(batch)
    if not bad.any():
        return batch
    sample, *position = torch.nonzero(bad)[0].tolist()
    value = batch[(sample, *position)].item()
    place = position[0] if len(position) == 1 else tuple(position)
    raise DataError("predict-not-finite", sample=first + sample, position=place, value=value)


def how_to_store(batch: Tensor, features: FeatureSpec) -> str:
    """Return what to write so that floats or booleans become what the data was stored as."""
    if features.dtype == "uint8" and batch.numel() and not batch.is_complex() and batch.max() <= 1:
        return Note("export.hint.images-to-bytes")
    return Note("export.hint.as-stored", dtype=features.dtype)


def described(features: FeatureSpec) -> str:
    """Return in words what the model takes."""
    shape = f"(n, {', '.join(str(length) for length in features.shape)})"
    if features.kind == "image":
        channels, height, width = features.shape
        return Note(
            "export.takes-images", shape=shape, dtype=features.dtype, channels=channels, height=height, width=width
        )
    return Note("export.takes-numbers" if features.dtype == "float32" else "export.takes-whole-numbers", shape=shape)


def shape_error(features: FeatureSpec, found: str) -> DataError:
    """Return the error for inputs of another shape."""
    key = "export.hint.last-dimension" if len(features.shape) == 1 else "export.hint.last-dimensions"
    hint = Note(key, size=Joined("list", map(str, features.shape)))
    if features.kind == "image":
        hint = Note("export.hint.resize")
    return DataError("predict-shape", expected=described(features), found=found, hint=hint)


def dtype_error(features: FeatureSpec, found: str, hint: str) -> DataError:
    """Return the error for inputs of another dtype."""
    return DataError("predict-dtype", expected=described(features), found=found, hint=hint)
