"""Student's t distribution (Student 1908), for any number of degrees of freedom from 1 on."""

from __future__ import annotations

import math


def beyond_t(t: float, freedom: float) -> float:
    """Return the share of Student's t distribution beyond ±t, by Simpson's rule over its angle.

    With t = √ν tan θ the density is proportional to cosᵛ⁻¹ θ, which is smooth on a finite range.
    """
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, steps = math.atan(t / math.sqrt(freedom)), 2000
    width = (math.pi / 2 - low) / steps
    heights = [math.pow(max(math.cos(low + step * width), 0.0), freedom - 1) for step in range(steps + 1)]
    area = width / 3 * (heights[0] + heights[-1] + 4 * math.fsum(heights[1:-1:2]) + 2 * math.fsum(heights[2:-1:2]))
    return min(1.0, 2 * scale * area)


def t_quantile(freedom: float) -> float:
    """Return the t between whose ± 95 % of Student's t distribution lie: the factor of an interval."""
    low, high = 0.0, 1000.0  # t of one degree of freedom is 12.7
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if beyond_t(middle, freedom) > 0.05 else (low, middle)
    return high
