"""Modules that were given in eval mode inside a model in training mode stay there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rushlight
from rushlight.training.checkpoint.checkpoint import state_digest

SMALL: dict[str, Any] = {"epochs": 2, "optimizer": "SGD", "lr": 0.05, "batch_size": 128, "quiet": True}


class Finetuned(nn.Module):
    """A backbone with BatchNorm and dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = (nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
        self.backbone, self.head = nn.Sequential(*layers), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(self.backbone(x))
        return outputs


class KeepsEval(Finetuned):
    """The same with a `train` of its own that leaves the backbone in eval mode, as the plain loop needs it."""

    def train(self, mode: bool = True) -> KeepsEval:
        super().train(mode)
        self.backbone.eval()
        return self


def frozen(model: Finetuned) -> Finetuned:
    model.backbone.requires_grad_(False).eval()
    return model


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_a_backbone_given_in_eval_mode_trains_to_the_bits_of_one_that_keeps_itself_there(
    numerics: str, tmp_path: Path
) -> None:
    before = Finetuned().backbone.state_dict()
    chosen = {**SMALL, "numerics": numerics, "runs": tmp_path}
    run = rushlight.train(frozen(Finetuned()), "digits", **chosen)
    reference = rushlight.train(frozen(KeepsEval()), "digits", **chosen)
    assert state_digest(run.model) == state_digest(reference.model)
    after = run.model.get_submodule("backbone").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(note.startswith("backbone: given in eval mode") for note in run.notes)


def test_the_bits_go_on_whatever_mode_the_model_has_at_resume(tmp_path: Path) -> None:
    whole = rushlight.train(frozen(Finetuned()), "digits", runs=tmp_path, **SMALL)
    training = rushlight.epochs(frozen(Finetuned()), "digits", name="a", runs=tmp_path, **SMALL)
    next(training)
    training.abandon(KeyboardInterrupt())
    resumed = rushlight.resume("a", frozen(Finetuned()).train(), runs=tmp_path, quiet=True)
    assert state_digest(resumed.model) == state_digest(whole.model)


def test_a_model_wholly_in_eval_mode_trains_wholly(tmp_path: Path) -> None:
    """As `rushlight.load` returns it; the plain loop calls `model.train()`."""
    run = rushlight.train(Finetuned().eval(), "digits", runs=tmp_path, **SMALL)
    reference = rushlight.train(Finetuned(), "digits", runs=tmp_path, **SMALL)
    assert state_digest(run.model) == state_digest(reference.model)
    assert "eval" not in run.recipe.model


def test_only_the_modules_that_were_in_eval_mode_stay_there(tmp_path: Path) -> None:
    model = Finetuned()
    model.backbone.eval()
    model.backbone[4].train()  # dropout goes on inside a backbone whose statistics stay
    training = rushlight.epochs(model, "digits", runs=tmp_path, **SMALL)
    modes: dict[str, set[bool]] = {name: set() for name, _ in model.named_modules()}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, *_, name=name: modes[name].add(module.training))
    next(training)
    in_training = {name for name, seen in modes.items() if True in seen}
    assert in_training == {"", "head", "backbone.4"}
    training.close()
