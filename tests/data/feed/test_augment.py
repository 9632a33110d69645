"""Augmented images are a function of (seed, epoch, index), the same however they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rushlight
from rushlight.data.feed.augment import DRAWS, GOLDEN, Augment, mixed_number, uniform
from rushlight.data.feed.resident import ResidentSplit
from rushlight.errors import UsageError

IMAGES = torch.randint(1, 256, (40, 3, 16, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
LABELS = torch.arange(40) % 4
INDICES = torch.arange(40)


def split(strength: Any = "strong", images: Tensor = IMAGES) -> ResidentSplit:
    return ResidentSplit(images, LABELS, lambda raw: raw, augment=Augment(strength))


def by_sample(feed: Any, order: Tensor) -> dict[int, list[Any]]:
    """Return each sample's image, as numbers, by its index."""
    images = torch.cat([inputs.clone() for inputs, _ in feed])
    return {int(index): image.tolist() for index, image in zip(order, images, strict=False)}


@pytest.mark.parametrize("size", [1, 7, 16, 39])
def test_an_image_depends_on_seed_epoch_and_index_and_on_nothing_else(size: int) -> None:
    data = split()
    whole = by_sample(data.batches(40, seed=3, epoch=2), data.order(3, 2))
    assert by_sample(data.batches(size, seed=3, epoch=2), data.order(3, 2)) == whole
    late = by_sample(data.batches(size, seed=3, epoch=2, start=1), data.order(3, 2)[size:])
    assert late == {index: whole[index] for index in late}
    feed, found = data.batches(4, seed=3, epoch=2), []
    while (batch := feed.take(3)) is not None:  # several batches at once, as a faster mode takes them
        found.append(batch[0].clone())
    assert torch.cat(found).tolist() == [whole[int(index)] for index in data.order(3, 2)]
    for other in ({"seed": 4, "epoch": 2}, {"seed": 3, "epoch": 3}):
        assert by_sample(data.batches(40, **other), data.order(**other)) != whole


def test_images_in_tests_stay_as_they_are() -> None:
    assert torch.equal(torch.cat([inputs for inputs, _ in split().in_order(16)]), IMAGES)


def test_light_moves_images_by_up_to_an_eighth() -> None:
    changed, moves = Augment("light")(IMAGES, INDICES, 0, 1), set()
    for before, after in zip(IMAGES, changed, strict=True):
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-3, 4)
            if torch.equal(moved(before, down, right), after)
        ]
        assert len(fits) == 1
        moves.add(fits[0])
    assert {down for down, _ in moves} == set(range(-2, 3))
    assert {right for _, right in moves} == set(range(-3, 4))


def moved(image: Tensor, down: int, right: int) -> Tensor:
    """Return an image moved by hand, with zeros coming in."""
    padded = nn.functional.pad(image.float(), (3 + right, 3 - right, 2 + down, 2 - down))
    return padded[:, 2:-2, 3:-3].to(torch.uint8)


def test_strong_also_mirrors_brightens_and_leaves_a_square_out() -> None:
    ramp = torch.arange(1, 25, dtype=torch.uint8).expand(1, 16, 24).repeat(200, 1, 1, 1)
    changed = Augment("strong")(ramp, torch.arange(200), 0, 1).float()
    rises = torch.tensor([bool((row[row > 0].diff() >= 0).all()) for row in changed[:, 0, 8]])
    assert 60 < int(rises.sum()) < 140
    flat = torch.full((200, 1, 32, 32), 100, dtype=torch.uint8)
    changed = Augment("strong")(flat, torch.arange(200), 0, 1).float()
    shades = changed.flatten(1).max(1).values
    assert 55 < float(shades.min()) < 70 < 130 < float(shades.max()) <= 140
    holes = (changed[:, 0, 8:24, 8:24] == 0).flatten(1).sum(1)
    assert int((holes > 0).sum()) > 60
    assert int(holes.max()) <= 81


def test_floats_keep_their_dtype_and_their_range() -> None:
    changed = Augment("strong")(IMAGES.float() / 255, INDICES, 0, 1)
    assert changed.dtype == torch.float32
    assert float(changed.max()) <= 1.4


def test_the_draws_are_splitmix64_and_uniform() -> None:
    def word(seed: int, epoch: int, index: int, draw: int) -> float:
        base = mixed_number(mixed_number(seed % 2**64) ^ (epoch * GOLDEN % 2**64))
        key = mixed_number((index * GOLDEN + base) % 2**64)
        return (mixed_number((key + draw * GOLDEN) % 2**64) >> 40) / 2**24

    found = uniform(torch.tensor([0, 1, 123_456]), -5, 7)
    assert found.tolist() == [[word(-5, 7, index, draw) for draw in range(1, DRAWS + 1)] for index in (0, 1, 123_456)]
    many = uniform(torch.arange(20_000), 0, 1)
    assert float((many.mean(0) - 0.5).abs().max()) < 0.01
    assert float(torch.corrcoef(many.t()).fill_diagonal_(0).abs().max()) < 0.03
    assert float((many[1:] * many[:-1]).mean(0).sub(0.25).abs().max()) < 0.01


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_a_run_with_augmentation_is_resumed_to_the_same_bits(numerics: Any, tmp_path: Path) -> None:
    def stop(event: rushlight.Event) -> None:
        if event.kind == "epoch" and event.data["epoch"] == 2:
            raise KeyError("stop")

    options: dict[str, Any] = {
        "augment": "strong",
        "epochs": 3,
        "quiet": True,
        "runs": tmp_path,
        "numerics": numerics,
        "compile": "never",
    }
    whole = rushlight.train("linear", "digits", **options)
    with pytest.raises(KeyError, match="stop"):
        rushlight.train("linear", "digits", name="part", on_event=stop, **options)
    part = rushlight.resume("part", runs=tmp_path, quiet=True)
    if numerics == "exact":
        assert part.losses.tolist() == whole.losses.tolist()
        assert part.summary()["state_sha256"] == whole.summary()["state_sha256"]
    torch.testing.assert_close(part.model.state_dict(), whole.model.state_dict(), rtol=1e-4, atol=1e-5)
    plain = rushlight.train("linear", "digits", **{**options, "augment": None})
    assert plain.losses.tolist() != whole.losses.tolist()


def test_what_is_no_image_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="augment changes images"):
        rushlight.train("mlp", (torch.randn(20, 4), torch.arange(20) % 2), augment="light", runs=tmp_path, quiet=True)
