"""State that an objective reaches and no checkpoint has: a second optimizer, its scheduler, a module that trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from rushlight.data import Walk
from rushlight.formats import format_names

SHOWN = 5


class OutsideWalk(Walk):
    """What is found in objects, and the outermost modules among them."""

    def __init__(self, roots: Mapping[str, Any], without: Iterable[Any]) -> None:
        self.modules: list[nn.Module] = []
        self.inner: set[int] = set()  # by `id`
        super().__init__(roots, without)

    def visit_object(self, path: str, value: Any, depth: int) -> None:
        """Follow an object's attributes."""
        if isinstance(value, nn.Module) and id(value) not in self.inner:
            self.modules.append(value)
            self.inner.update(map(id, value.modules()))
        super().visit_object(path, value, depth)


def outside_state(functions: Iterable[Any], model: nn.Module, known: Iterable[Any]) -> str:
    """Return the classes of the objects with state that the user's functions reach and no checkpoint has; "" for none.

    `known` are the objects that checkpoints have besides the model. Generators, numbers and objects of the user's own are
    kept with all that model and objective hold; torch's are not. A module counts where it is in training mode and has
    parameters that train or statistics that run; so a frozen teacher in eval mode does not.
    """
    known = [model, *known, *functions]
    kept = [module for owner in known if isinstance(owner, nn.Module) for module in owner.modules()]
    tensors = {id(tensor) for module in kept for tensor in (*module.parameters(False), *module.buffers(False))}
    walk = OutsideWalk({"model": model, "functions": list(functions)}, [each for each in known if not callable(each)])
    found = [
        type(each).__name__
        for each in walk.others.values()
        if type(each).__module__.startswith("torch.") and hasattr(each, "load_state_dict")
    ]
    found += [type(module).__name__ for module in walk.modules if may_change(module, tensors)]
    return format_names(list(dict.fromkeys(found)), SHOWN)


def may_change(module: nn.Module, kept: set[int]) -> bool:
    """Tell whether training may change tensors of a module which are not `kept`."""
    changing: list[Any] = [each for each in module.parameters() if each.requires_grad]
    for part in module.modules():
        changing += part.buffers(False) if getattr(part, "track_running_stats", False) else []
    return module.training and any(id(each) not in kept for each in changing)
