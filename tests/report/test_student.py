"""Student's t distribution is that of the printed tables."""

from __future__ import annotations

import pytest

from rushlight.report import beyond_t, t_quantile


@pytest.mark.parametrize(
    ("t", "freedom"), [(12.70620, 1), (4.302653, 2), (3.182446, 3), (2.776445, 4), (2.228139, 10), (1.983972, 100)]
)
def test_the_tails_of_students_distribution_are_those_of_the_tables(t: float, freedom: float) -> None:
    assert beyond_t(t, freedom) == pytest.approx(0.05, rel=1e-5)
    assert t_quantile(freedom) == pytest.approx(t, rel=1e-5)
    assert beyond_t(0, freedom) == pytest.approx(1)
