"""How a model's layers are, from `layers.jsonl`: what is wrong with them, and since when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rushlight.board.files import read_all_lines
from rushlight.kinds import Kind, is_count, is_finite, is_share, is_text, maybe, wrong_entry

DEAD = 0.5  # share of units that never fire from which a layer is called dead
MOST_SEEN = 60  # observations in the picture of all
FIGURES = {
    "zero": is_share,
    "dead": is_share,
    "mean": is_finite,
    "std": is_finite,
    "weight": is_finite,
    "change": is_finite,
    "gradient": is_finite,
}
LAYER: Kind = {"name": is_text, "kind": is_text, **{f"{name}?": maybe(kind) for name, kind in FIGURES.items()}}
LINE: Kind = {"step": is_count, "steps": is_count, "samples": is_count, "layers": [LAYER]}


def health_of(folder: Path) -> dict[str, Any] | None:
    """Return the "step", "steps" and "samples" of the last observation, its "layers", and "findings"; None where there is none.

    "heat" has the "steps" of at most `MOST_SEEN` observations, and for each layer its "change",
    "gradient" and "dead" units at these.
    A finding has "what" ("dead", "not-finite" or "unchanged"), the layer's "name" and "kind", its "share" of dead units, and the
    step "since" which each observation found it.
    """
    lines = [line for line in read_all_lines(folder / "layers.jsonl") if wrong_entry(line, LINE) is None]
    if not lines:
        return None
    last = lines[-1]
    findings = []
    for layer in last["layers"]:
        for what in ("not-finite", "dead", "unchanged"):
            if is_found(what, layer):
                since = last["step"]
                for line in reversed(lines):
                    if not any(entry["name"] == layer["name"] and is_found(what, entry) for entry in line["layers"]):
                        break
                    since = line["step"]
                findings.append(
                    {
                        "what": what,
                        "name": layer["name"],
                        "kind": layer["kind"],
                        "share": layer.get("dead"),
                        "since": since,
                    }
                )
                break
    layers = [{name: layer.get(name) for name in ("name", "kind", *FIGURES)} for layer in last["layers"]]
    seen = lines[:: -(-len(lines) // MOST_SEEN)]
    by_name = [{entry["name"]: entry for entry in line["layers"]} for line in seen]
    heat: dict[str, Any] = {
        name: [[found.get(layer["name"], {}).get(name) for found in by_name] for layer in layers]
        for name in ("change", "gradient", "dead")
    }
    heat["steps"] = [line["step"] for line in seen]
    of_last = {name: last[name] for name in ("step", "steps", "samples")}
    return {**of_last, "layers": layers, "findings": findings, "heat": heat}


def is_found(what: str, layer: dict[str, Any]) -> bool:
    """Tell whether something is wrong with a layer. What is no number in its line was not finite."""
    if what == "not-finite":
        return ("std" in layer and layer["std"] is None) or ("weight" in layer and layer["weight"] is None)
    if what == "dead":
        return (layer.get("dead") or 0) >= DEAD
    return layer.get("change") == 0
