"""One run as one HTML file: the page itself, with every answer that it would ask for; no server, no run folder, no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rushlight import files
from rushlight.board.app import LOG_FILES, words_of
from rushlight.board.curves import Curves, View
from rushlight.board.details import details_of, logged_images
from rushlight.board.files import read_all_lines, read_status
from rushlight.board.listing import Runs, id_of
from rushlight.board.page import html_page, own_text
from rushlight.board.samples import LISTS, Viewer, list_samples, read_tested
from rushlight.board.series import Losses
from rushlight.errors import RunError
from rushlight.texts import LANGUAGES
from rushlight.web import POLICY

MOST_BYTES = 5_000_000
COLUMNS = 2000  # of a curve: on any screen every extreme is drawn, and a zoom shows as much as these
USUAL_SMOOTHING, LONG = 20, 500  # as the page smooths where nobody chose
MOST_LINES = 2000  # of each log


def export_run(folder: Path, path: Path, language: str, force: bool = False) -> int:
    """Write a run as one HTML file of at most `MOST_BYTES`; return its size.

    What does not fit is left out: pictures first. Raises RunError where there is no such run, UsageError where another file is
    at `path` and `force` does not let it be replaced, StorageError.
    """
    runs, identity = Runs(folder.parent), id_of(folder.name)
    if runs.find(identity) is None:
        raise RunError("not-a-run", path=folder)
    files.check_replaceable([path], force)
    exported: dict[str, Any] = {
        "words": {code: words_of(code) for code in LANGUAGES},
        "answers": {
            "/api/runs": {"server": "file", "version": 1, "whole": True, "rows": [runs.entries[identity].row], "gone": []},
            "/api/logs": {identity: {name: logged(folder / file) for name, file in LOG_FILES.items()}},
            "/api/recipes": {"metric": None, "groups": [], "verdict": None, "alike": [], "settings": {}},
        },
        "curves": curves_of(folder, identity),
        "media": {},
    }  # fmt: skip
    base = f"/api/runs/{identity}"
    details = exported["answers"][base] = details_of(folder)
    for part in (details["environment"] or {}, *(details["sessions"] or [])):
        for name in ("host", "command"):  # a file to give away: not whose machine it was
            part.pop(name, None)
    room = MOST_BYTES - 100_000 - len(page_of(folder.name, exported, language))
    for extra in sample_answers(folder, base, details):
        room -= len(json.dumps(files.without_nan(extra)))
        if room > 0:
            exported["answers"] |= extra
    for name in sorted(logged_images(folder), reverse=True):  # the latest first
        status = read_status(folder / "media" / name)
        if status is not None and status.st_size * 4 / 3 < room:
            content = files.read_bytes(folder / "media" / name, status.st_size)
            exported["media"][name] = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            room -= len(exported["media"][name])
    page = page_of(folder.name, exported, language).encode()
    files.write_named(path, page)
    return len(page)


def sample_answers(folder: Path, base: str, details: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the answers to what the page asks of samples, the most telling ones first: lists, mistakes by their number, twins."""
    confusion = (details.get("report") or {}).get("confusion") or []
    if not confusion:
        return
    cells = np.argwhere(confusion).tolist()
    cells.sort(key=lambda cell: (cell[0] == cell[1], -confusion[cell[0]][cell[1]]))
    asked: list[tuple[str, str, int | None, int | None]]
    asked = [(f"{name}&start=0", name, None, None) for name in LISTS if name != "cell"]
    asked += [
        (f"cell&truth={truth}&predicted={predicted}&start=0", "cell", truth, predicted) for truth, predicted in cells
    ]
    tested, viewer = read_tested(folder), Viewer()
    try:
        for query, which, truth, predicted in asked:
            found = None if tested is None else list_samples(tested, which, truth, predicted, 0)
            answers: dict[str, Any] = {f"{base}/samples?list={query}": found}
            if found is not None and found["samples"]:
                indices = [one["index"] for one in found["samples"]]
                query = "&".join(f"index={index}" for index in indices)
                answers[f"{base}/shown?{query}"] = viewer.ask(folder, {"indices": indices})
            yield answers
        yield {f"{base}/shown?twins=1": viewer.ask(folder, {"twins": True})}
    finally:
        viewer.close()


def logged(path: Path) -> dict[str, Any]:
    """Return a log as the page gets it, without the lines between epochs; of a long one, lines at even distances."""
    lines = [line for line in read_all_lines(path) if line.get("kind") != "steps"]
    stride = -(-len(lines) // MOST_LINES) or 1
    return {"lines": lines[::-1][::stride][::-1], "cursor": "", "anew": False}


def curves_of(folder: Path, identity: str) -> dict[str, str]:
    """Return the curves of a run over each axis, in base64."""
    losses = Losses(folder / "losses.f32")
    losses.refresh()
    smoothing = USUAL_SMOOTHING if losses.count >= LONG else 0
    views = {axis: View(axis, None, None, COLUMNS, smoothing, False) for axis in ("step", "epoch", "time")}
    curves = Curves()
    return {axis: base64.b64encode(curves.read({identity: folder}, view)).decode() for axis, view in views.items()}


def page_of(name: str, exported: dict[str, Any], language: str) -> str:
    """Return the HTML: scripts and styles are let in by their digests, and the data is no script."""
    script, style = own_text("board.js"), own_text("board.css")
    data = json.dumps(files.without_nan(exported), separators=(",", ":"))
    for mark, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        data = data.replace(mark, code)
    rules = {
        **POLICY,
        "script-src": digest(script),
        "style-src": digest(style),
        "connect-src": "'none'",
        "img-src": "data:",
    }
    policy = "; ".join(
        f"{rule} {value}" for rule, value in rules.items() if rule != "frame-ancestors"
    )  # not for <meta>
    raw = {"style": style, "script": script, "data": data}
    return html_page("exported", raw, language=language, folder=name, policy=policy)


def digest(content: str) -> str:
    """Return the source that lets in an inline script or style by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
