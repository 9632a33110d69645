"""95 % intervals of proportions."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution

Interval = tuple[float, float]


def f1_of(jaccard: float) -> float:
    """Return F1 for a Jaccard index."""
    return 2 * jaccard / (1 + jaccard)


def wilson(right: int, n: int) -> Interval:
    """Return Wilson's 95 % score interval of `right` successes in `n` trials; (0, 1) when there were none."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    middle, scale = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    low = (middle - spread) / scale if right > 0 else 0.0  # exactly, where rounding would leave 1e-17
    return low, (middle + spread) / scale if right < n else 1.0
