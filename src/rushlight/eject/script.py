"""Writes a run as one plain PyTorch script.

What the script does before it learns is executed here first: it is written only where its data and its first weights are
those of the run, bit for bit. Its comments stand in `texts/LANGUAGE/eject.toml`; a line of the template that ends in
`#: key` gets the text of that key.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rushlight import files
from rushlight.data import Data, ResidentSplit, retarget
from rushlight.eject.data import SHORT, carried_data, prepared_as, quote
from rushlight.eject.learning import check_judged, check_learning, learning_facts, no_claim
from rushlight.eject.model import carried_model, names_given_by
from rushlight.errors import UsageError
from rushlight.models import source_digest
from rushlight.runs import read_environment, read_recipe
from rushlight.texts import Joined, Note, shown, text
from rushlight.training import build_described, check_importable, recipe_from_json, reopen_data, reopen_specs
from rushlight.version import __version__

WIDTH, PAGE = 120, 100  # columns of a line, of a paragraph; a Chinese character takes two
KEY = re.compile(r"^(?P<code>.*?)(?P<quote>\"\"\")?#: (?P<key>[a-z-]+)(?P<end>\"\"\")?$")
IMPORTS = {  # in the order in which they are written: what calls for them, and how they are imported
    r"\bcopy\.": "import copy", r"\bcsv\.": "import csv", r"\bgzip\.": "import gzip", r"\bhashlib\.": "import hashlib",
    r"\bmath\.": "import math", r"\bsys\.": "import sys", r"\bzlib\.": "import zlib",
    r"\bdatetime\.": "from datetime import datetime, timezone", r"\bPath\(": "from pathlib import Path", "-": "",
    r"\bnp\.": "import numpy as np", r"\btorch\.": "import torch", r"\bImage\.": "from PIL import Image, ImageOps",
    r"\bTensor\b": "from torch import Tensor, nn", r"\bnn\.": "from torch import nn",
}  # fmt: skip


def write_script(folder: Path, path: Path, reference: str | None = None, force: bool = False) -> Note | None:
    """Write a run as a script; return why it does not claim to end with the run's own weights, None where it does.

    `reference` names the class of the model, "net.py:Net", where that was not trained on this machine by this account.

    Raises:
        UsageError: the run has something that the script cannot carry; all of it is named. Or another file is at `path`, and
            `force` does not let it be replaced. Nothing is written.
        RunError, DataError, …: the run, its data or its model cannot be opened again.
    """
    files.check_replaceable([path], force)
    recipe, environment = recipe_from_json(read_recipe(folder)), read_environment(folder)
    left: list[Note] = []
    check_learning(recipe, left)
    refuse(folder, left)
    if reference is None:
        check_importable(folder, recipe)
    elif source_digest(reference) != recipe.model.get("source_sha256"):
        refuse(folder, [Note("eject.cannot.changed-source", name=reference)])
    else:
        recipe = replace(recipe, model={**recipe.model, "import": reference})
    data = reopen_data(folder, recipe)
    if environment.get("data_fingerprint") not in (None, data.fingerprint):
        refuse(folder, [Note("eject.cannot.changed-data", name=data.name)])
    model = build_described(recipe.model, data)
    features, target = reopen_specs(folder, recipe, model)
    if features is None or target is None or not isinstance(data.train, ResidentSplit):
        refuse(folder, [Note("eject.cannot.data", kind=data.train.kind)])
    assert target is not None
    data = retarget(data, target)
    check_judged(recipe, data, left)
    refuse(folder, left)
    facts: dict[str, Any] = {"data": carried_data(recipe, data, left)}
    facts["model"] = carried_model(recipe, model, data, left)
    refuse(folder, left)
    digest, unclaimed = no_claim(folder, recipe, environment)
    conditions = environment.get("conditions", {})
    script = render_script(
        {
            **facts, **prepared_as(data), **learning_facts(recipe, data, model), "recipe": recipe, "name": path.name, "digest": digest,
            "split_seed": "SEED" if recipe.data["options"].get("seed", 0) == recipe.seed else "SPLIT_SEED",
            "unclaimed": shown(unclaimed), "threads": conditions.get("threads", 1),
        },
        {
            "run": folder.name, "name": path.name, "seed": recipe.seed, "model": recipe.model["name"], "data": data.name, "version": __version__,
            "torch": conditions.get("torch", torch.__version__), "processor": conditions.get("processor", ""),
            "count": conditions.get("threads", 1), "homepage": facts["data"].get("homepage", ""),
        },
    )  # fmt: skip
    check_names(folder, script, facts["model"].get("names", {}))
    script = script.replace("#: source", facts["model"]["own"], 1)
    prove(folder, script, data, model)
    files.write_named(path, script.encode("utf-8", "surrogateescape"))
    return unclaimed


def refuse(folder: Path, left: list[Note]) -> None:
    """Raise UsageError where there is something that the script cannot carry."""
    if left:
        listed = Joined("items", ["", *left])
        if any(note.key == "eject.cannot.data" for note in left):  # which no other training would change
            raise UsageError("eject-cannot-data", run=folder.name, listed=listed)
        raise UsageError("eject-cannot", run=folder.name, listed=listed)


# ── the text ─────────────────────────────────────────────────────────────────────────────────────────────────


def render_script(facts: dict[str, Any], values: dict[str, Any]) -> str:
    """Return the script: the template filled in, its keys in words, its imports at its head."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # torch brings it along

    def say(key: str) -> str:
        return text(f"eject.says.{key}", **values).replace("\\", "/").replace('"', "'")

    environment = Environment(
        loader=PackageLoader("rushlight.eject", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    own = {
        "say": say,
        "quote": quote,
        "x_rows": "prepare(x[rows])" if facts["prepared"] else "x[rows]",
        "heading": lambda key: heading(say(key)),
    }
    body = environment.get_template("script.jinja").render({**facts, **own})
    lines = [worded for line in body.splitlines() for worded in with_comment(line, say)]
    head = "\n".join([*lines, facts["model"]["own"]])
    wanted = [statement for pattern, statement in IMPORTS.items() if pattern == "-" or re.search(pattern, head)]
    if IMPORTS[r"\bTensor\b"] in wanted:
        wanted.remove(IMPORTS[r"\bnn\."])
    own_imports = [line for line in facts["model"].get("imports", ()) if line not in wanted]
    script = "\n".join([*lines, ""]).replace("#: imports", "\n".join([*wanted, *own_imports]))
    if future := facts["model"].get("future"):
        script = script.replace('"""\n\n', f'"""\n\n{future}\n\n', 1)
    spaced = re.sub(r"\n+(?=@|def |class |# ──)", "\n\n\n", script)
    return re.sub(r"^(@.*)\n+", r"\1\n", spaced, flags=re.MULTILINE)


def heading(words: str) -> str:
    """Return a line that begins a part of the script."""
    begin = f"# ── {words} "
    return begin + "─" * (PAGE - width(begin))


def with_comment(line: str, say: Any) -> list[str]:
    """Return a line with the text of its key, as a comment after it, before it, or as a docstring."""
    found = KEY.match(line)
    if found is None or found["key"] in ("imports", "source"):
        return [line]
    words, code = say(found["key"]), found["code"]
    indent = " " * (len(code) - len(code.lstrip()))
    if found["key"] == "about":
        return wrap(words, PAGE)
    if found["quote"]:
        lines = wrap(f'"""{words}{found["end"] or ""}', WIDTH - len(indent))
        return [f"{indent}{line}" for line in lines]
    if code.strip() and width(f"{code.rstrip()}  # {words}") <= WIDTH:
        return [f"{code.rstrip()}  # {words}"]
    stop = "" if words[-1] in ".?。？" or words.startswith("http") else "。" if width(words[-1]) > 1 else "."
    above = [f"{indent}# {line}" for line in wrap(words[0].upper() + words[1:] + stop, WIDTH - len(indent) - 2)]
    return [*above, *([code.rstrip()] if code.strip() else [])]


def width(line: str) -> int:
    """Return how many columns a line takes in a terminal."""
    return sum(1 + (unicodedata.east_asian_width(each) in "WF") for each in line)


def wrap(words: str, columns: int) -> list[str]:
    """Return a text in lines of at most so many columns; Chinese may go on in the next line at any character."""
    if width(words) == len(words):
        return textwrap.wrap(words, columns)
    lines, line = [], ""
    for piece in re.findall(r"[!-~]+[，。；：？！、）”]?|[^!-~][，。；：？！、）”]*", words):
        if width(line + piece) > columns:
            lines.append(line.strip())
            line = ""
        line += piece
    return [*lines, line.strip()]


# ── the proof ────────────────────────────────────────────────────────────────────────────────────────────────


def check_names(folder: Path, script: str, names: dict[str, str]) -> None:
    """Raise UsageError where the user's source gives a name another meaning than the script around it does."""
    ours = {name: meaning for node in ast.parse(script).body for name, meaning in names_given_by(node).items()}
    twice = sorted(name for name in ours.keys() & names.keys() if not ours[name] or ours[name] != names[name])
    refuse(folder, [Note("eject.cannot.name", name=name) for name in twice])


def prove(folder: Path, script: str, data: Data, model: nn.Module) -> None:
    """Execute the script up to where it learns; raise UsageError unless data and first weights are the run's."""
    prelude = script.partition(heading(text("eject.says.learning")))[0]
    threads, arguments, found = torch.get_num_threads(), sys.argv, dict[str, Any]({"__name__": "ejected"})
    try:
        sys.argv = ["ejected"]
        with torch.random.fork_rng(devices=[]):
            exec(compile(prelude, "ejected", "exec"), found)
    except Exception as error:
        reason = Note("eject.cannot.fails", reason=f"{type(error).__name__}: {error}")
        raise UsageError("eject-cannot", run=folder.name, listed=Joined("items", ["", reason])) from error
    finally:
        sys.argv = arguments
        torch.set_num_threads(threads)
    left = [
        Note("eject.cannot.other-data", split=split)
        for split in ("train", "validation", "test")
        if not same(found, split, data)
    ]
    weights, own = model.state_dict(), found["model"].state_dict()
    if list(weights) != list(own) or not all(torch.equal(weights[name], own[name]) for name in own):
        left.append(Note("eject.cannot.other-weights"))
    refuse(folder, left)


def same(found: dict[str, Any], split: str, data: Data) -> bool:
    """Tell whether a split of the script is the run's."""
    own, short = data.splits.get(split), SHORT[split]
    if own is None:
        return f"x_{short}" not in found
    assert isinstance(own, ResidentSplit)
    pairs = ((found.get(f"x_{short}"), own.inputs), (found.get(f"y_{short}"), own.targets))
    return all(mine is not None and mine.dtype == theirs.dtype and torch.equal(mine, theirs) for mine, theirs in pairs)
