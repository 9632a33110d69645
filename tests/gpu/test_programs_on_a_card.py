"""The programs in examples/ on an NVIDIA card: near the processor's losses, left and gone on with to the same bits, used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.test_programs import PROGRAMS, opened, resume, same, stop, train

PLACES = (
    "segmentation",
    "language_model",
)  # their loss has a target at each place, for which torch has no kernel of the same bits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA card")]


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """Have torch choose kernels that compute the same each time, where it has such."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()


@pytest.mark.filterwarnings("ignore")  # torch's, of kernels that are not deterministic
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_trains_on_a_card_and_goes_on_there_to_the_same_bits(name: str, tmp_path: Path) -> None:
    module = opened(name)
    (tmp_path / "use").mkdir()
    whole = train(module, tmp_path, device="cuda", numerics="exact", name="whole")
    with pytest.raises(KeyError):
        train(module, tmp_path, device="cuda", numerics="exact", name="cut", on_event=stop)
    if name in PLACES:
        np.testing.assert_allclose(resume(module, tmp_path, "cut").losses, whole.losses, rtol=1e-3)
    else:
        same(whole, resume(module, tmp_path, "cut"))
    alone = train(module, tmp_path, device="cpu", numerics="exact", name="processor")
    if name != "gan":  # which draws its noise where it computes
        np.testing.assert_allclose(whole.losses[:3], alone.losses[:3], rtol=0.1)
        assert whole.losses[-1] == pytest.approx(alone.losses[-1], rel=0.2)
    module.use(whole, tmp_path / "use")
