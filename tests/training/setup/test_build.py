"""Models as they are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import rushlight


def test_a_model_that_its_user_has_compiled_is_trained_and_loaded_into_the_plain_one(tmp_path: Path) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    compiled = torch.compile(network(), backend="eager")
    run = rushlight.train(compiled, "digits", epochs=1, runs=tmp_path, quiet=True)  # type: ignore[arg-type]
    assert run.report is not None
    run.save(tmp_path / "own.pth")
    plain = network()
    plain.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in run.model.state_dict().items()})
    assert torch.equal(plain[1].weight, run.model.state_dict()["_orig_mod.1.weight"])  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_trains_to_the_bits_of_the_plain_one(tmp_path: Path) -> None:
    def trained(is_scripted: bool) -> rushlight.Run:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        given = torch.jit.script(model) if is_scripted else model
        return rushlight.train(given, "digits", epochs=2, numerics="exact", runs=tmp_path, quiet=True)

    plain, scripted = trained(False), trained(True)
    assert scripted.losses.tobytes() == plain.losses.tobytes()
    assert scripted.test().accuracy == plain.test().accuracy
