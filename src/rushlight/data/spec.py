"""What data looks like to a model: features, targets, normalisation. Frozen, and plain JSON on disk.

A spec is learnt once, on the training split, and then travels with the run, the report and the bundle, so that
testing and predicting prepare their inputs exactly as training did.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # a server that prepares rows by a spec imports no torch
    import torch
    from torch import Tensor

FeatureKind = Literal["image", "table", "array"]
Task = Literal["classification", "binary", "multilabel", "regression", "other"]
Layout = Literal["rows", "flat", "dense"]
Scale = Literal["scores", "probabilities", "logarithms"]
NormalizeName = Literal["auto", "standard", "unit", "none"]
ArrayKind = Literal["image", "array", "tokens"]


Share = float | tuple[int, int]  # a part of the samples: a fraction of them, or a fold, (number from 1, of so many)
Floats = Literal["float32", "float64"]
FLOATS: ContextVar[Floats] = ContextVar("floats", default="float32")  # what floating-point numbers are read as


@contextlib.contextmanager
def reading_floats(floats: Floats) -> Iterator[None]:
    """Read floating-point numbers as float32, or as float64 for a model whose weights are, for a block."""
    token = FLOATS.set(floats)
    try:
        yield
    finally:
        FLOATS.reset(token)


def in_floats(values: Tensor, floats: Floats) -> Tensor:
    """Return numbers as float32 or float64."""
    return values.double() if floats == "float64" else values.float()


@functools.lru_cache(maxsize=64)
def constant(numbers: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return numbers as a tensor; kept, since each copy to a card would wait for its work."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


@dataclass(frozen=True)
class Normalization:
    """`(x / divisor - mean) / std`, in the dtype of the model, by channel (images) or by column (tables, vectors).

    `divisor` is 255 for 8-bit images and 1 for everything else. `mean` and `std` hold one number per channel or
    column, or nothing at all: then only the division is done.
    """

    name: NormalizeName = "none"
    divisor: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def apply(self, raw: Tensor, channel_dim: int, floats: Floats = "float32") -> Tensor:
        """Return features from a raw batch; `channel_dim` is the dimension that `mean` runs along."""
        x = in_floats(raw, floats)
        if self.divisor != 1.0:
            # by a number, a card would multiply by its reciprocal, which rounds otherwise
            divisor = self.divisor if x.device.type == "cpu" else constant((self.divisor,), x.device, x.dtype)
            x = x / divisor if x is raw else x.div_(divisor)
        if self.mean:
            mean, std = self.constants(x, channel_dim)
            x = (x - mean) / std
        return x

    def undo(self, prepared: Tensor, channel_dim: int) -> Tensor:
        """Return a batch as it was before `apply`, up to rounding."""
        raw = prepared
        if self.mean:
            mean, std = self.constants(prepared, channel_dim)
            raw = raw * std + mean
        return raw * self.divisor

    def constants(self, like: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
        """Return `mean` and `std` as tensors that broadcast against the batch `like`."""
        shape = [1] * like.dim()
        shape[channel_dim] = -1
        mean, std = (constant(numbers, like.device, like.dtype).reshape(shape) for numbers in (self.mean, self.std))
        return mean, std


def name_of(tokenizer: Any) -> str:
    """Return the name of a function, or of an object's class; a name as it is."""
    return tokenizer if isinstance(tokenizer, str) else getattr(tokenizer, "__qualname__", type(tokenizer).__name__)


@dataclass(frozen=True)
class Tokens:
    """How a text becomes token ids: the first `length` that the tokenizer gives, then `padding` up to `length`.

    `tokenizer` is "bytes" (the bytes of UTF-8), the JSON of a tokenizer of Hugging Face's `tokenizers`, or the user's own
    function from a text to ids; on disk the name of that function, and `digest` tells whether another is the same.
    """

    length: int
    vocabulary: int = 257  # ids are smaller
    padding: int = 256
    tokenizer: Any = field(default="bytes", repr=False)  # its JSON may be long
    digest: str = ""  # of the user's own function only

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**vars(self), "tokenizer": name_of(self.tokenizer) if self.digest else self.tokenizer}


@dataclass(frozen=True)
class Column:
    """One column of a table, and how it becomes numbers.

    A number is itself; a date is its days since 1970; a category is one 0/1 feature per known category (an unknown
    one is all zeros). A missing number or date becomes `fill`, the training mean, and, where the training split
    had missing values, one more 0/1 feature says so. `date_order` is the order of year, month and day in dates that are
    text, where it is not year first. A text becomes token ids, as `tokens` says. A column that `orders` the rows of a series
    by time is no feature.
    """

    name: str
    kind: Literal["number", "category", "date", "text"]
    categories: tuple[str, ...] = ()
    fill: float = 0.0
    flags_missing: bool = False
    date_order: Literal["ymd", "dmy", "mdy"] = "ymd"
    tokens: Tokens | None = None
    orders: bool = False

    @property
    def width(self) -> int:
        """How many features the column becomes."""
        if self.tokens is not None:
            return self.tokens.length
        if self.orders:
            return 0
        return len(self.categories) if self.kind == "category" else 1 + self.flags_missing


@dataclass(frozen=True)
class FeatureSpec:
    """One sample as the model receives it.

    `shape` is without the batch dimension: (channels, height, width) for images, (features,) for tables, (rows, features)
    for windows of a series, (tokens,) for texts. `dtype` is the stored dtype;
    whole numbers that are no image (token ids, say) reach the model as int64, all else as `floats`.
    `is_raw`: an objective gets them, in the dtype they came in.
    """

    kind: FeatureKind
    shape: tuple[int, ...]
    dtype: str  # "uint8", "float32", "float64", "int64"
    normalization: Normalization = Normalization()
    columns: tuple[Column, ...] = ()  # tables only: the columns in order
    is_raw: bool = False
    varies: bool = False  # whether samples are sequences, whose length is another in each batch: that of `shape` is one
    floats: Floats = field(default_factory=FLOATS.get)  # the dtype of the model's weights

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a sample of this shape is one of these."""
        is_same = len(shape) == len(self.shape) and shape[1:] == self.shape[1:]
        return is_same and (self.varies or shape == self.shape)

    @property
    def size(self) -> int:
        """How many numbers one sample has."""
        return prod(self.shape)

    @property
    def tokens(self) -> Tokens | None:
        """How texts become token ids; None for all else."""
        return self.columns[0].tokens if self.columns else None

    @property
    def time(self) -> Column | None:
        """The column that orders the rows of a series; None where samples are no windows of one."""
        return next((column for column in self.columns if column.orders), None)

    @property
    def channel_dim(self) -> int:
        """The dimension of a batch along which `normalization` runs."""
        return 1 if self.kind == "image" else -1

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values."""
        tokens = [column.tokens and column.tokens.to_json() for column in self.columns]
        content = asdict(replace(self, columns=tuple(replace(column, tokens=None) for column in self.columns)))
        columns = [entry | {"tokens": own} for entry, own in zip(content["columns"], tokens, strict=True)]
        return content | {"columns": columns}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> FeatureSpec:
        """Rebuild what `to_json` wrote."""
        normalization = Normalization(**with_tuples(content["normalization"]))
        columns = tuple(
            Column(**with_tuples(column) | {"tokens": Tokens(**own) if (own := column.get("tokens")) else None})
            for column in content["columns"]
        )
        return cls(**{"floats": "float32", **with_tuples(content), "normalization": normalization, "columns": columns})

    def prepare(self, raw: Tensor) -> Tensor:
        """Return what the model receives for a batch as stored, shape (batch, *shape)."""
        if self.is_raw or self.dtype == "int64":
            return raw.long() if self.tokens else raw  # in memory, ids have two or four bytes
        return self.normalization.apply(raw, self.channel_dim, self.floats)


@dataclass(frozen=True)
class TargetSpec:
    """What is predicted, as the loss sees it.

    classification: `classes` names the outputs; targets are int64 class numbers, (n,), or float32 probabilities,
                    (n, classes).
    binary:         two `classes`; targets are float32 0 or 1, (n, 1); the model has one output.
    multilabel:     `classes` names the labels; targets are float32 0 or 1, (n, labels).
    regression:     `width` numbers; targets are float32, (n, width), stored as `(y - mean) / std` where these
                    were learnt (said aloud), as given otherwise.
    other:          the loss alone knows; nothing but its value is reported.

    `layout` is "rows" for these shapes. "flat": a single number, whose targets and outputs are (n,). "dense": a target for
    each place: class numbers (n, *places) with outputs (n, classes, *places); outputs of all else have the targets' shape.

    `gives` tells what the model's outputs are: "scores" (logits, or a regression's values), "probabilities", or
    "logarithms" of a regression's values. Targets that are float32 here are float64 where `floats` says so.
    """

    task: Task
    classes: tuple[str, ...] = ()
    width: int = 1  # regression and other only
    name: str = ""  # the target column, if it has a name
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout = "rows"
    gives: Scale = "scores"
    ignored: int | None = None  # the class number that the loss leaves out, and every figure with it
    floats: Floats = field(default_factory=FLOATS.get)  # the dtype of the model's weights

    @property
    def outputs(self) -> int:
        """How many numbers the model must give for one sample, or for each place of it."""
        if self.task in ("regression", "other"):
            return self.width
        return 1 if self.task == "binary" else len(self.classes)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TargetSpec:
        """Rebuild what `to_json` wrote."""
        return cls(**{"floats": "float32", **with_tuples(content)})

    def for_loss(self, targets: Tensor) -> Tensor:
        """Return the data's own targets in the dtype, shape and units that the loss takes."""
        is_column = self.layout != "dense" and targets.dim() == 2 and targets.shape[1] == 1
        if self.task == "classification" or (self.task == "other" and not targets.is_floating_point()):
            if self.task == "classification" and not is_column and self.are_probabilities(targets):
                return in_floats(targets, self.floats)
            return targets.long().flatten() if is_column else targets.long()
        targets = in_floats(targets, self.floats)
        if self.layout == "flat":
            targets = targets.reshape(-1)
        elif targets.dim() == 1:
            targets = targets.unsqueeze(1)
        if self.mean:
            mean, std = (constant(numbers, targets.device, targets.dtype) for numbers in (self.mean, self.std))
            targets = (targets - mean) / std
        return targets

    def are_probabilities(self, targets: Tensor) -> bool:
        """Tell whether classification targets are a probability for each class, (n, classes, …), not class numbers."""
        is_wide = targets.dim() > 1 and targets.shape[1] == len(self.classes)
        return is_wide and (self.layout == "rows" or (targets.dim() > 2 and targets.is_floating_point()))

    def in_units(self, values: Tensor) -> Tensor:
        """Return a regression's targets or outputs, (n, width), in the units the data came in."""
        if not self.mean:
            return values
        return values * values.new_tensor(self.std) + values.new_tensor(self.mean)

    def decoded(self, outputs: Tensor) -> Tensor:
        """Return probabilities, or a regression's values in the data's units, from the model's outputs."""
        if self.gives == "probabilities" or self.task == "other":
            return outputs
        if self.task == "regression":
            return self.in_units(outputs.exp() if self.gives == "logarithms" else outputs)
        return outputs.softmax(1) if self.task == "classification" else outputs.sigmoid()

    def predicted(self, outputs: Tensor) -> Tensor:
        """Return the likeliest class of each sample or place, or the labels that hold, from the model's outputs."""
        return outputs.argmax(1) if self.task == "classification" else self.decoded(outputs) > 0.5

    def true(self, targets: Tensor) -> Tensor:
        """Return the class of each sample or place, or the labels that hold, from targets as the loss takes them."""
        if self.task != "classification":
            return targets > 0.5
        return targets.argmax(1) if self.are_probabilities(targets) else targets


def with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    """Return JSON's values with tuples, as the frozen dataclasses have them, in the place of lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
