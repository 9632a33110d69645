"""What the page asks for, and what it gets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rushlight import files
from rushlight.board.axis import Axis
from rushlight.board.compare import compare_models
from rushlight.board.curves import Curves, View
from rushlight.board.details import details_of, logged_images
from rushlight.board.doing import CHANGES, change_run
from rushlight.board.files import read_new_lines, read_range
from rushlight.board.guard import Guard
from rushlight.board.listing import TENSORBOARD, Runs
from rushlight.board.page import PAGE, html_page
from rushlight.board.recipes import compare_recipes
from rushlight.board.samples import LISTS, MOST_SHOWN, Viewer, list_samples, read_tested
from rushlight.board.series import csv_of
from rushlight.board.tensorboard import EventLogs
from rushlight.errors import RushlightError
from rushlight.texts import LANGUAGES, fill, read_room
from rushlight.web import App

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PNG = b"\x89PNG\r\n\x1a\n"
MOST_IMAGE = 32 << 20  # bytes
MOST_RUNS = 200  # of one request
MOST_ASKED = 1 << 17  # bytes of a request that changes something
PAGE_WORDS = "board.page."  # what the keys of the words of the page begin with
LOG_FILES = {"history": "history.jsonl", "values": "values.jsonl", "machine": "machine.jsonl"}


class BadRequest(Exception):
    """A request that the page never makes."""


def build_app(folder: Path, port: int, language: str, allowed: str | None = None) -> Guard:
    """Return the application that shows the runs of a folder; `allowed` is another name by which browsers may ask for it."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.responses import Response as Plain
    from starlette.routing import Route

    runs, curves, viewer, events = Runs(folder), Curves(), Viewer(), EventLogs()

    def as_json(content: Any) -> Response:
        return Plain(
            json.dumps(files.without_nan(content)).encode(), media_type="application/json"
        )  # ASCII: names may be no UTF-8

    def page(request: Request) -> Response:
        gone = fill(language, "board.gone", {})
        return HTMLResponse(
            html_page("index", language=language, folder=str(folder.absolute()), token=guard.for_changes, gone=gone)
        )

    def asset(request: Request) -> Response:
        name = request.path_params["name"]
        kind = {"board.js": "text/javascript", "board.css": "text/css"}.get(name)
        return PlainTextResponse("", 404) if kind is None else Plain((PAGE / name).read_bytes(), media_type=kind)

    def words(request: Request) -> Response:
        code = request.path_params["language"]
        return as_json(words_of(code)) if code in LANGUAGES else PlainTextResponse("", 404)

    def list_runs(request: Request) -> Response:
        since = request.query_params.get("since", "0")
        found = runs.changes(int(since) if since.isdecimal() and len(since) < 16 else 0)
        return Plain(
            json.dumps(found).encode(), media_type="application/json"
        )  # a long list, and `row_value` has left no NaN

    def show_run(request: Request) -> Response:
        found = runs.find(request.path_params["run"])
        return PlainTextResponse("", 404) if found is None else as_json(details_of(found))

    def read_logs(request: Request) -> Response:
        """Give what the logs of some runs have new; each run is given as "ID~CURSOR~CURSOR"."""
        answer = {}
        for asked in request.query_params.getlist("run")[:MOST_RUNS]:
            identity, *cursors = asked.split("~")
            found = runs.find(identity)
            if found is not None and len(cursors) == len(LOG_FILES):
                if runs.entries[identity].row["status"] == TENSORBOARD:
                    parts = zip(("lines", "cursor", "anew"), events.new_lines(found, cursors[1]), strict=True)
                    answer[identity] = {name: {"lines": [], "cursor": "", "anew": False} for name in LOG_FILES}
                    answer[identity]["values"] = dict(parts)
                    continue
                answer[identity] = {
                    name: dict(zip(("lines", "cursor", "anew"), read_new_lines(found / file, cursor), strict=True))
                    for (name, file), cursor in zip(LOG_FILES.items(), cursors, strict=True)
                }
        return as_json(answer)

    def read_curves(request: Request) -> Response:
        asked = request.query_params.getlist("run")[:MOST_RUNS]
        found = {identity: path for identity in asked if (path := runs.find(identity)) is not None}
        return Plain(curves.read(found, view_of(request.query_params.get)), media_type="application/octet-stream")

    def losses_csv(request: Request) -> Response:
        found = runs.find(request.path_params["run"])
        if found is None:
            return PlainTextResponse("", 404)
        headers = {"content-disposition": f'attachment; filename="losses-{request.path_params["run"]}.csv"'}
        return StreamingResponse(csv_of(found / "losses.f32"), media_type="text/csv", headers=headers)

    def compare(request: Request) -> Response:
        found = [runs.find(identity) for identity in request.query_params.getlist("run")]
        if len(found) != 2 or found[0] is None or found[1] is None:
            return PlainTextResponse("", 404)
        return as_json(compare_models(found[0], found[1]))

    def recipes(request: Request) -> Response:
        found = [
            (path, runs.entries[identity].row)
            for identity in request.query_params.getlist("run")[:MOST_RUNS]
            if (path := runs.find(identity))
        ]
        whole = [(path, row) for path, row in found if row["status"] not in ("damaged", TENSORBOARD)]
        return as_json(compare_recipes(whole))

    def show_image(request: Request) -> Response:
        found = runs.find(request.path_params["run"])
        name = request.path_params["name"]
        if found is None or name not in logged_images(found):
            return PlainTextResponse("", 404)
        content = read_range(found / "media" / name, 0, MOST_IMAGE)
        return Plain(content, media_type="image/png") if content.startswith(PNG) else PlainTextResponse("", 404)

    def samples(request: Request) -> Response:
        """Give the test samples of a cell or a list: what is known of them, as JSON; all of a list as "most=all"."""
        found, given = runs.find(request.path_params["run"]), request.query_params
        tested = None if found is None else read_tested(found)
        if found is None or given.get("list") not in LISTS:
            return PlainTextResponse("", 404)
        if tested is None:
            return as_json(None)
        truth, predicted, start = (whole_number(given.get(name)) for name in ("truth", "predicted", "start"))
        most = {"most": len(tested.truth)} if given.get("most") == "all" else {}
        return as_json(list_samples(tested, given["list"], truth, predicted, start or 0, **most))

    def show_samples(request: Request) -> Response:
        """Give the samples themselves, by their indices; or the pairs that are in training and test."""
        found, given = runs.find(request.path_params["run"]), request.query_params
        if found is None:
            return PlainTextResponse("", 404)
        indices = [index for one in given.getlist("index")[:MOST_SHOWN] if (index := whole_number(one)) is not None]
        return as_json(viewer.ask(found, {"twins": True} if "twins" in given else {"indices": indices}))

    async def change(request: Request) -> Response:
        found, what = runs.find(request.path_params["run"]), request.path_params["what"]
        if (
            found is None
            or what not in CHANGES
            or runs.entries[request.path_params["run"]].row["status"] == TENSORBOARD
        ):
            return PlainTextResponse("", 404)
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_ASKED:
                raise BadRequest(what)
        try:
            given = json.loads(content)
            if not isinstance(given, dict):
                raise BadRequest(what)
            return as_json(await run_in_threadpool(change_run, folder, found, what, given))
        except (ValueError, RecursionError):
            raise BadRequest(what) from None
        except RushlightError as error:
            return as_json({"error": error.problem})

    async def bad_request(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    def refuse(status: int, reason: str) -> App:
        if reason == "cookie":
            return HTMLResponse(
                html_page("refused", language=language, said=fill(language, "board.not-let-in", {})), status
            )
        return JSONResponse({"refused": reason}, status)

    def welcome(cookie: str) -> App:
        # no redirect: a browser that was led here from elsewhere would not send a strict cookie along with one
        return HTMLResponse(html_page("door", address="/"), headers={"set-cookie": cookie})

    routes = [
        Route("/", page), Route("/assets/{name}", asset), Route("/api/words/{language}", words), Route("/api/runs", list_runs),
        Route("/api/runs/{run}", show_run), Route("/api/logs", read_logs), Route("/api/curves", read_curves),
        Route("/api/compare", compare),
        Route("/api/recipes", recipes),
        Route("/api/runs/{run}/losses.csv", losses_csv),
        Route("/api/runs/{run}/media/{name}", show_image), Route("/api/runs/{run}/samples", samples),
        Route("/api/runs/{run}/shown", show_samples), Route("/api/runs/{run}/do/{what}", change, methods=["POST"]),
    ]  # fmt: skip
    guard = Guard(
        Starlette(routes=routes, exception_handlers={BadRequest: bad_request}), port, refuse, welcome, allowed
    )
    guard.leave = viewer.close
    return guard


def whole_number(given: str | None) -> int | None:
    """Return a whole number from 0 on; None for anything else."""
    return int(given) if given is not None and given.isdecimal() and len(given) < 12 else None


def view_of(given: Callable[[str], str | None]) -> View:
    """Return the view that a request asks for; BadRequest for one that does not exist."""

    def number(name: str, usual: float | None) -> float | None:
        try:
            value = float(given(name) or "") if given(name) else usual
        except ValueError:
            raise BadRequest(name) from None
        if value is not None and not math.isfinite(value):
            raise BadRequest(name)
        return value

    axis: Any = given("axis") or "step"
    if axis not in get_args(Axis):
        raise BadRequest("axis")
    columns, half_life = number("columns", 800), number("smooth", 0)
    low, high = (
        None if value is None else min(max(value, 0.0), 1e12) for value in (number("low", None), number("high", None))
    )
    return View(
        axis=axis, low=low, high=high, columns=int(min(max(columns or 0, 10), 4000)),
        half_life=min(max(half_life, 1.0), 1e6) if half_life else 0, is_log=given("log") == "1", is_log_y=given("logy") == "1",
    )  # fmt: skip


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def words_of(code: str) -> dict[str, Any]:
    """Return the page's texts in one language by their names; what the terminal calls a run's status, the page does too."""
    room, section, _ = PAGE_WORDS.split(".")
    status = {f"status-{name}": word for name, word in read_room(code, "console")["status"].items()}
    between = read_room(code, "words")["between"]["sentences"]
    return {**status, "between-sentences": between, **read_room(code, room)[section]}
