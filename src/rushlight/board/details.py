"""One run: its recipe, environment, sessions and report, each checked before the page gets it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rushlight.board.files import read_all_lines, read_range, read_status
from rushlight.board.health import health_of
from rushlight.board.listing import Refused, check_files, statuses_of
from rushlight.board.samples import calibration_of, read_tested, thresholds_of
from rushlight.errors import RunError
from rushlight.runs import STOP, is_locked, list_sessions, read_environment, read_note, read_recipe, read_report
from rushlight.texts import text

IMAGE_NAME = re.compile(r"media/([^/\\]+\.png)")
MOST_OF_PROFILE = 4 << 20  # bytes
PARTS = ("recipe", "environment", "report", "sessions", "health", "calibration", "thresholds", "limit")
FIGURES = ("loss", "accuracy", "mae", "rmse", "r2")
OF_CLASS = ("n", "precision", "recall", "f1")


def details_of(folder: Path) -> dict[str, Any]:
    """Return all of `PARTS`, None where one is not there, and "problems"; of a run that can be read, also its note."""
    problems: list[str] = []

    def part(name: str, read: Callable[[], Any]) -> Any:
        if not (folder / name).exists():
            return None
        try:
            return read()
        except RunError as error:
            problems.append(error.problem)
        except Exception as error:  # whatever a hostile file brings about
            problems.append(text("board.problem.unreadable", reason=f"{name}: {type(error).__name__}"))
        return None

    try:
        check_files(statuses_of(folder))
    except Refused as error:
        return {**dict.fromkeys(PARTS), "problems": [str(error)]}
    tested = read_tested(folder)
    return {
        "recipe": part("recipe.json", lambda: read_recipe(folder)),
        "environment": part("environment.json", lambda: read_environment(folder)),
        "report": part("report.json", lambda: checked_report(read_report(folder))),
        "sessions": part("sessions.jsonl", lambda: list_sessions(folder, is_locked(folder))),
        "is_asked_to_stop": read_status(folder / STOP) is not None,
        "note": read_note(folder),
        "health": health_of(folder),
        "calibration": calibration_of(tested),
        "thresholds": thresholds_of(tested),
        "limit": limit_of(folder),
        "problems": problems,
    }


def limit_of(folder: Path) -> dict[str, Any] | None:
    """Return what limits a step, from the run's profile: its "sentence", "step_seconds", and "parts" of a step as [name, share]."""
    with contextlib.suppress(Exception):  # whatever a hostile file brings about
        profile = json.loads(read_range(folder / "profile" / "profile.json", 0, MOST_OF_PROFILE))
        parts = [[str(name), float(part["share"])] for name, part in profile["parts"].items()]
        seconds = float(profile["step_seconds"])
        return {"sentence": str(profile["limit"]["sentence"])[:1000], "step_seconds": seconds, "parts": parts[:20]}
    return None


def checked_report(content: dict[str, Any]) -> dict[str, Any]:
    """Return a report with nothing in it but what a report has; ValueError or TypeError for one that is none."""
    report: dict[str, Any] = {name: optional_number(content.get(name)) for name in FIGURES}
    classes = [
        {"name": str(entry["name"]), **{name: optional_number(entry.get(name)) for name in OF_CLASS}}
        for entry in content.get("classes") or ()
    ]
    confusion = [[int(count) for count in row] for row in content.get("confusion") or ()]
    if confusion and {len(confusion), *map(len, confusion)} != {len(classes)}:
        raise ValueError("confusion")
    interval = [float(bound) for bound in content.get("accuracy_interval") or ()]
    wrong = [{str(name): value for name, value in entry.items()} for entry in content.get("most_wrong") or ()]
    return {
        **report, "n": int(content.get("n") or 0), "task": str(content.get("task") or ""), "target": str(content.get("target") or ""),
        "classes": classes, "confusion": confusion, "accuracy_interval": interval, "most_wrong": wrong,
    }  # fmt: skip


def optional_number(value: Any) -> float | None:
    """Return a number, or None; TypeError for anything else."""
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError(value)
    return value


def logged_images(folder: Path) -> set[str]:
    """Return the names of the image files that a run's log refers to."""
    names: set[str] = set()
    for line in read_all_lines(folder / "values.jsonl"):
        values = line.get("values")
        for value in values.values() if isinstance(values, dict) else ():
            name = value.get("media") if isinstance(value, dict) else None
            if isinstance(name, str) and (match := IMAGE_NAME.fullmatch(name)):
                names.add(match[1])
    return names
