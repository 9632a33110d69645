"""What a campaign found. Every campaign is `campaign(count, seed, work, say) -> Outcome`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]  # shows a line of progress


@dataclass(frozen=True)
class Outcome:
    """What one campaign tried, what failed (a sentence each, with what reproduces it), and its figures by name."""

    name: str
    tried: int
    failures: tuple[str, ...]
    figures: dict[str, int | float]


def case_random(name: str, seed: int, case: int) -> random.Random:
    """Return the random numbers of one case: they depend on the campaign, the seed and the case, and nothing else."""
    return random.Random(f"{name}/{seed}/{case}")
