"""Why a model answers as it does, for the board: `python -m rushlight.export.explain` answers over its pipes.

Beside what `rushlight.data.answer_lines` says: {"indices"} also gets "choices", for each sample its two likeliest classes as
[[name, share], …]; {"explain": a test sample} gets "similar", the training samples whose inputs of the last layer point most nearly the
same way, {"index", "class", "cosine"} each, as "shown" and "of" how many; and "drops": how far the likeliest class's share falls
without each part of the sample (Zeiler and Fergus 2014), which is replaced by the training's mean (of some samples, where none
was learnt), a category by none that is known: row by row of "grid" fields of an image, by column of a table, or by number.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rushlight.data import Data, FeatureSpec, ResidentSplit, StreamedSplit, answer_lines, described_samples
from rushlight.export.inputs import hidden_row
from rushlight.export.predictions import check_answers, in_words
from rushlight.export.saved import SavedModel, open_bundle
from rushlight.models import main_output

MOST_RESIDENT, MOST_STREAMED = 20_000, 2_000  # training samples that are compared, chosen at random
SECONDS = 10.0  # of one request; the next one goes on
NEAREST = 6
FIELDS = 7  # of an image's side
MOST_PARTS = 64
BATCH = 256


def explain_sample(data: Data, described: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Answer one request. Raises WeightsError for an explanation by a model that cannot be opened."""
    features, split = data.features, data.test
    if "indices" in asked:
        answer = described_samples(features, split, asked["indices"])
        try:
            saved = opened_model(described["bundle"])
            inputs = stacked(features, split, asked["indices"])
        except Exception:  # without its model a sample is still shown
            return answer
        return {**answer, "choices": choices_of(saved, shares_and_features(saved, inputs)[0])}
    saved, index = opened_model(described["bundle"]), asked["explain"]
    sample = stacked(features, split, [index])
    shares, place = shares_and_features(saved, sample)
    best = int(shares[0].argmax())
    described["places"] = indices, known = training_places(saved, data, described.get("places"))
    cosines = torch.nn.functional.cosine_similarity(known, place)
    nearest = cosines.topk(min(NEAREST, len(known))).indices.tolist()
    similar = [
        {"index": indices[one], "class": class_of(saved, data.train, indices[one]), "cosine": float(cosines[one])}
        for one in nearest
    ]
    parts = parts_of(saved.bundle.features, sample.shape[1:])
    drops = []
    if len(parts) and "cover" not in described:
        described["cover"] = cover_of(saved.bundle.features, stacked(features, data.train, indices[:BATCH]))
    for first in range(0, len(parts), BATCH):
        covered = torch.where(parts[first : first + BATCH], described["cover"].to(sample.dtype), sample)
        drops += (shares[0, best] - shares_and_features(saved, covered)[0][:, best]).tolist()
    return {
        "choices": choices_of(saved, shares, 3)[0], "similar": similar, "of": len(known), "drops": drops,
        "shown": described_samples(features, data.train, [one["index"] for one in similar]),
        "grid": FIELDS if features is not None and features.kind == "image" else 0,
    }  # fmt: skip


@lru_cache(maxsize=1)
def opened_model(bundle: str) -> SavedModel:
    """Open the run's bundle. Nothing named in it is imported: a model of the user's own code raises WeightsError."""
    return open_bundle(Path(bundle))


def stacked(features: FeatureSpec | None, split: Any, indices: list[int]) -> Tensor:
    """Return samples of a split as the model receives them, (n, *shape)."""
    assert features is not None
    if isinstance(split, ResidentSplit):
        return split.prepare(split.inputs[indices])
    assert isinstance(split, StreamedSplit)
    return features.prepare(torch.stack([torch.as_tensor(split.dataset[index][0]) for index in indices]))


def shares_and_features(saved: SavedModel, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes' shares, (n, classes), and what the last layer with parameters is given, (n, width)."""
    last: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor) and given[0].dim() > 1 and len(given[0]) == len(inputs):
            last[:] = given[:1]

    leaves = [part for part in saved.model.modules() if next(part.children(), None) is None]
    layers = [part for part in leaves if next(part.parameters(), None) is not None]
    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            outputs = check_answers(main_output(saved.model(inputs)), len(inputs), saved.bundle.target)
    finally:
        for handle in handles:
            handle.remove()
    place = last[0] if last else outputs
    return in_words(outputs, saved.bundle.target), place.float().flatten(2).mean(
        2
    ) if place.dim() > 2 else place.float()


def choices_of(saved: SavedModel, shares: Tensor, most: int = 2) -> list[list[tuple[str, float]]]:
    """Return each sample's likeliest classes, the likeliest first."""
    found = shares.topk(min(most, shares.shape[1]), dim=1)
    rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [[(saved.classes[place], share) for place, share in zip(*row, strict=True)] for row in rows]


def training_places(saved: SavedModel, data: Data, known: tuple[list[int], Tensor] | None) -> tuple[list[int], Tensor]:
    """Return training samples, and where the last layer sees them, (n, width): those known, and what `SECONDS` add to them."""
    split, until = data.train, time.monotonic() + SECONDS
    most = MOST_RESIDENT if isinstance(split, ResidentSplit) else MOST_STREAMED
    assert split.samples is not None
    order = torch.randperm(split.samples, generator=torch.Generator().manual_seed(0))[:most].tolist()
    indices, places = ([], []) if known is None else (known[0], [known[1]])
    while len(indices) < len(order) and (time.monotonic() < until or not indices):
        batch = order[len(indices) : len(indices) + BATCH]
        places.append(shares_and_features(saved, stacked(data.features, split, batch))[1])
        indices = indices + batch
    return indices, torch.cat(places)


def class_of(saved: SavedModel, split: Any, index: int) -> str:
    """Return the name of a training sample's class."""
    target = torch.as_tensor(split.targets[index] if isinstance(split, ResidentSplit) else split.dataset[index][1])
    return saved.classes[int(target.flatten()[0] if target.numel() == 1 else target.argmax())]


def cover_of(features: FeatureSpec | None, inputs: Tensor) -> Tensor:
    """Return what stands for a part that is covered, as the model receives it, (*shape): `hidden_row`, else the training's mean.

    That is 0 where it was learnt, else the mean of some samples.
    """
    if features is not None and features.columns:
        row = torch.from_numpy(hidden_row(features.columns).astype(features.dtype))
        return features.prepare(row.unsqueeze(0))[0]
    is_learnt = features is not None and bool(features.normalization.mean)
    return torch.zeros_like(inputs[0]) if is_learnt else inputs.float().mean(0)


def parts_of(features: FeatureSpec | None, shape: torch.Size) -> Tensor:
    """Return masks of the parts that are covered one by one, (parts, *shape); none where there are too many or they are no numbers."""
    none = torch.zeros(0, *shape, dtype=torch.bool)
    if features is None or (features.dtype == "int64" and features.kind != "image"):
        return none
    if features.kind == "image":
        masks = torch.zeros(FIELDS * FIELDS, *shape, dtype=torch.bool)
        for field in range(FIELDS * FIELDS):  # a field with half of its neighbours: what is seen is wider than one
            rows, columns = (
                slice(int(max(0, (at - 0.5) * side / FIELDS)), -int(-min(side, (at + 1.5) * side / FIELDS) // 1))
                for at, side in zip(divmod(field, FIELDS), shape[-2:], strict=True)
            )
            masks[field, ..., rows, columns] = True
        return masks
    widths = [column.width for column in features.columns] or [1] * features.size
    if len(widths) > MOST_PARTS:
        return none
    owners = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))
    return (owners == torch.arange(len(widths))[:, None]).reshape(-1, *shape)


if __name__ == "__main__":
    answer_lines(explain_sample)
