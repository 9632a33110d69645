"""The model as code: the layers of a named network, or the user's own source."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rushlight import files
from rushlight.data import Data, ResidentSplit
from rushlight.models import MOST_OF_A_SOURCE, eval_mode, find_source, restored
from rushlight.texts import Note
from rushlight.training import Recipe

BEGIN_A_LINE = (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d)
NEEDS = {"UNet": ("convolution", "two_convolutions")}  # the functions that a class calls
SAYS = {"ResidualBlock": "residual-block", "UNet": "unet"}  # the keys of their docstrings


def carried_model(recipe: Recipe, model: nn.Module, data: Data, left: list[Note]) -> dict[str, Any]:
    """Return the model's template values; note in `left` why it cannot be carried."""
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in model.parameters()):
        left.append(Note("eject.cannot.lazy"))
        return {}
    assert isinstance(data.train, ResidentSplit)
    sample = data.train.prepare(data.train.inputs[:2])
    with eval_mode(model), torch.no_grad():
        if not isinstance(model(sample), Tensor):
            left.append(Note("eject.cannot.outputs"))
    if "import" not in recipe.model:
        return {"code": layers_code(model, sample), "layers": named_code(model), "own": ""}
    arguments = {key: restored(value) for key, value in recipe.model.get("arguments", {}).items()}
    reference = recipe.model["import"]
    call = f"{reference.rpartition(':')[2]}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    path = find_source(reference)
    if path is None or "site-packages" in path.parts:
        return {"code": call, "own": "", "layers": "", "imports": [f"from {reference.replace(':', ' import ')}"]}
    return {"code": call, "layers": "", **own_source(path, left)}


# ── networks by name ─────────────────────────────────────────────────────────────────────────────────────────


def layers_code(model: nn.Module, sample: Tensor) -> str:
    """Return a network by name as `nn.Sequential(…)`, with the shape that leaves each line."""
    if not isinstance(model, nn.Sequential):
        return layer_code(model)
    lines: list[tuple[list[str], tuple[int, ...]]] = []
    x = sample
    with eval_mode(model), torch.no_grad():
        for layer in model:
            x = layer(x)
            begins = isinstance(layer, BEGIN_A_LINE) or not type(layer).__module__.startswith("torch.")
            entry = ([] if begins or not lines else lines.pop()[0]) + [layer_code(layer)]
            lines.append((entry, tuple(x.shape[1:])))
    code = [f"    {', '.join(entry)}," for entry, _ in lines]
    column = max(map(len, code))
    shapes = (f"({', '.join(map(str, ('n', *shape)))})" for _, shape in lines)
    return "\n".join(
        ["nn.Sequential(", *(f"{line:<{column}}  # {shape}" for line, shape in zip(code, shapes, strict=True)), ")"]
    )


def layer_code(layer: nn.Module) -> str:
    """Return how a layer of a network by name is made."""
    kind = type(layer).__name__
    if isinstance(layer, nn.Linear):
        return f"nn.Linear({layer.in_features}, {layer.out_features})"
    if isinstance(layer, nn.Conv2d):
        return f"nn.Conv2d({layer.in_channels}, {layer.out_channels}, 3, padding=1, bias=False)"
    if isinstance(layer, nn.BatchNorm2d):
        return f"nn.BatchNorm2d({layer.num_features})"
    if isinstance(layer, (nn.MaxPool2d, nn.Dropout)):
        return f"nn.{kind}({layer.p if isinstance(layer, nn.Dropout) else layer.kernel_size})"
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return "nn.AdaptiveAvgPool2d(1)"
    if kind == "ResidualBlock":
        first: Any = layer.first
        return f"ResidualBlock({first.in_channels}, {first.out_channels}, stride={first.stride[0]})"
    if kind == "UNet":
        down: Any = layer.down
        head: Any = layer.head
        return f"UNet({down[0][0].in_channels}, {head.out_channels}, width={head.in_channels}, depth={len(down) - 1})"
    return f"nn.{kind}()"


def named_code(model: nn.Module) -> str:
    """Return the source of the classes and functions that a network by name is made of, with docstrings of the catalogue."""
    kinds = {type(layer) for layer in model.modules() if type(layer).__module__.startswith("rushlight.")}
    home = inspect.getmodule(next(iter(kinds), None))
    parts = [getattr(home, name) for kind in kinds for name in (*NEEDS.get(kind.__name__, ()), kind.__name__)]
    return "\n\n\n".join(with_own_docstring(inspect.getsource(part), part.__name__) for part in parts)


def with_own_docstring(source: str, name: str) -> str:
    """Return a source with one docstring, that of the catalogue, in place of its own."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    lines: list[str | None] = list(source.rstrip().splitlines())
    for node in nodes:
        first = node.body[0]
        if is_docstring(first):
            lines[first.lineno - 1 : first.end_lineno] = [None] * ((first.end_lineno or 0) - first.lineno + 1)
            if node.name == name:
                lines[first.lineno - 1] = f'    """#: {SAYS.get(name, name.replace("_", "-"))}"""'
    return "\n".join(line for line in lines if line is not None)


# ── the user's own ───────────────────────────────────────────────────────────────────────────────────────────


def own_source(path: Path, left: list[Note]) -> dict[str, Any]:
    """Return the source of the user's own file, without its `if __name__ == "__main__":`; note what cannot be carried."""
    source = files.read_bytes(path, MOST_OF_A_SOURCE).decode("utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    future, dropped, names = "", set[int](), dict[str, str]()
    for node in tree.body:
        span = range(node.lineno - 1, node.end_lineno or node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            future = lines[node.lineno - 1]
            dropped.update(span)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            beside = {each: path.parent / each.partition(".")[0] for each in modules}
            near = [each for each, place in beside.items() if place.is_dir() or place.with_suffix(".py").is_file()]
            if near or (isinstance(node, ast.ImportFrom) and node.level):
                left.append(Note("eject.cannot.import", path=path.name, line=node.lineno, name=", ".join(near) or "."))
            names |= names_given_by(node)
        elif is_docstring(node) or (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            dropped.update(span)
        else:
            names |= names_given_by(node)
    if re.search(r"\b__file__\b|\bimport random\b|\brandom\.random|np\.random|\brushlight\b", source):
        left.append(Note("eject.cannot.source", path=path.name))
    kept = "\n".join(line for number, line in enumerate(lines) if number not in dropped).strip("\n")
    return {"own": kept, "future": future, "names": names}


def is_docstring(node: ast.stmt) -> bool:
    """Tell whether a statement is a text alone, as a docstring is."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def names_given_by(node: ast.stmt) -> dict[str, str]:
    """Return the names that a statement at the top of a file gives a value: of an import with what they stand for, else with ''."""
    if isinstance(node, ast.Import):
        return {
            alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
            for alias in node.names
        }
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return {node.name: ""}
    return {each.id: "" for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
