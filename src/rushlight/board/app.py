"""What the page asks for, and what it gets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rushlight import files
from rushlight.board.axis import Axis
from rushlight.board.compare import compare_models
from rushlight.board.curves import Curves, View
from rushlight.board.details import details_of, logged_images
from rushlight.board.doing import CHANGES, PROCESSES, Processes, change_run
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

PNG = b"\x89PNG\r\n\x1a\n"
MOST_IMAGE = 32 << 20  # bytes
MOST_RUNS = 200  # of one request
MOST_ASKED = 1 << 17  # bytes of a request that changes something
PAGE_WORDS = "board.page."  # what the keys of the words of the page begin with
LOG_FILES = {"history": "history.jsonl", "values": "values.jsonl", "machine": "machine.jsonl"}


def build_app(folder: Path, port: int, language: str, allowed: str | None = None) -> Guard:
    """Return the application that shows the runs of a folder; `allowed` is another name by which browsers may ask for it."""
    answers = Answers(folder, is_ours_alone=allowed is None)

    def page(request: Request) -> Response:
        gone = fill(language, "board.gone", {})
        return HTMLResponse(
            html_page("index", language=language, folder=str(folder.absolute()), token=guard.for_changes, gone=gone)
        )

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
        Route("/", page),
        Route("/assets/{name}", asset),
        Route("/api/words/{language}", words),
        *answers.routes(),
    ]
    app = Starlette(routes=routes)
    guard = Guard(app, port, refuse, welcome, allowed)
    guard.begin, guard.leave = answers.runs.read_ahead, answers.close
    return guard


class Answers:
    """Answers the page's requests about the runs of one folder; owns what was read of them, and the processes that work for it."""

    def __init__(self, folder: Path, is_ours_alone: bool) -> None:
        self.folder, self.is_ours_alone = folder, is_ours_alone
        self.runs, self.curves, self.viewer, self.events = Runs(folder), Curves(), Viewer(), EventLogs()
        self.processes = Processes()

    def routes(self) -> list[Route]:
        """Return the addresses of the answers."""
        one = "/api/runs/{run}"
        return [
            Route("/api/runs", self.list_runs), Route("/api/logs", self.read_logs), Route("/api/curves", self.read_curves),
            Route("/api/compare", self.compare), Route("/api/recipes", self.recipes), Route(one, self.show_run),
            Route(f"{one}/losses.csv", self.losses_csv), Route(f"{one}/media/{{name}}", self.show_image),
            Route(f"{one}/samples", self.samples), Route(f"{one}/shown", self.show_samples),
            Route(f"{one}/do/{{what}}", self.change, methods=["POST"]),
        ]  # fmt: skip

    def close(self) -> None:
        """End the processes."""
        self.viewer.close()
        self.processes.close()

    def found(self, request: Request) -> Path:
        """Return the folder of the run in a request's path; HTTPException where there is none."""
        found = self.runs.find(request.path_params["run"])
        if found is None:
            raise HTTPException(404, "")
        return found

    def chosen(self, request: Request) -> dict[str, Path]:
        """Return the folders of the runs in a request's query, by id; those that are not there are left out."""
        asked = request.query_params.getlist("run")[:MOST_RUNS]
        return {identity: path for identity in asked if (path := self.runs.find(identity)) is not None}

    def is_events(self, identity: str) -> bool:
        """Tell whether a run is TensorBoard's files."""
        return bool(self.runs.entries[identity].row["status"] == TENSORBOARD)

    def list_runs(self, request: Request) -> Response:
        """Give the rows that are new since a version of the list."""
        since = request.query_params.get("since", "0")
        found = self.runs.changes(int(since) if since.isdecimal() and len(since) < 16 else 0)
        content = json.dumps(found).encode()  # a list may be long, and `row_value` has left no NaN
        return Response(content, media_type="application/json")

    def show_run(self, request: Request) -> Response:
        """Give all that one run's page shows."""
        return json_response(details_of(self.found(request)))

    def read_logs(self, request: Request) -> Response:
        """Give what the logs of some runs have new; each run is given as "ID~CURSOR~CURSOR~CURSOR"."""
        answer = {}
        for asked in request.query_params.getlist("run")[:MOST_RUNS]:
            identity, *cursors = asked.split("~")
            found = self.runs.find(identity)
            if found is None or len(cursors) != len(LOG_FILES):
                continue
            if self.is_events(identity):
                answer[identity] = {name: log_part([], "", False) for name in LOG_FILES}
                answer[identity]["values"] = log_part(*self.events.new_lines(found, cursors[1]))
                continue
            answer[identity] = {
                name: log_part(*read_new_lines(found / file, cursor))
                for (name, file), cursor in zip(LOG_FILES.items(), cursors, strict=True)
            }
        return json_response(answer)

    def read_curves(self, request: Request) -> Response:
        """Give the losses of some runs as bytes."""
        content = self.curves.read(self.chosen(request), view_of(request.query_params.get))
        return Response(content, media_type="application/octet-stream")

    def losses_csv(self, request: Request) -> Response:
        """Give every loss of a run as a file."""
        found = self.found(request)
        headers = {"content-disposition": f'attachment; filename="losses-{request.path_params["run"]}.csv"'}
        return StreamingResponse(csv_of(found / "losses.f32"), media_type="text/csv", headers=headers)

    def compare(self, request: Request) -> Response:
        """Compare the models of two runs."""
        found = [self.runs.find(identity) for identity in request.query_params.getlist("run")]
        if len(found) != 2 or found[0] is None or found[1] is None:
            raise HTTPException(404, "")
        return json_response(compare_models(found[0], found[1]))

    def recipes(self, request: Request) -> Response:
        """Compare the recipes of some runs."""
        found = [(path, self.runs.entries[identity].row) for identity, path in self.chosen(request).items()]
        return json_response(
            compare_recipes([(path, row) for path, row in found if row["status"] not in ("damaged", TENSORBOARD)])
        )

    def show_image(self, request: Request) -> Response:
        """Give an image that a run's log refers to."""
        found, name = self.found(request), request.path_params["name"]
        content = read_range(found / "media" / name, 0, MOST_IMAGE) if name in logged_images(found) else b""
        if not content.startswith(PNG):
            raise HTTPException(404, "")
        return Response(content, media_type="image/png")

    def samples(self, request: Request) -> Response:
        """Give the test samples of a cell or a list: what is known of them, as JSON; all of a list as "most=all"."""
        found, given = self.found(request), request.query_params
        if given.get("list") not in LISTS:
            raise HTTPException(404, "")
        tested = read_tested(found)
        if tested is None:
            return json_response(None)
        truth, predicted, start = (whole_number(given.get(name)) for name in ("truth", "predicted", "start"))
        most = {"most": len(tested.truth)} if given.get("most") == "all" else {}
        return json_response(list_samples(tested, given["list"], truth, predicted, start or 0, **most))

    def show_samples(self, request: Request) -> Response:
        """Give the samples themselves, by their indices; or why one is answered so; or the pairs that are in training and test."""
        found, given = self.found(request), request.query_params
        indices = [index for one in given.getlist("index")[:MOST_SHOWN] if (index := whole_number(one)) is not None]
        asked: dict[str, Any] = {"explain": indices[0]} if "why" in given and indices else {"indices": indices}
        return json_response(self.viewer.ask(found, {"twins": True} if "twins" in given else asked))

    async def change(self, request: Request) -> Response:
        """Do what the user asks for: `CHANGES`, and on this machine's own board `PROCESSES`."""
        found, what = self.found(request), request.path_params["what"]
        if self.is_events(request.path_params["run"]) or what not in (
            *CHANGES,
            *(PROCESSES if self.is_ours_alone else ()),
        ):
            raise HTTPException(404, "")
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_ASKED:
                raise HTTPException(400, what)
        try:
            given = json.loads(content)
            if not isinstance(given, dict):
                raise HTTPException(400, what)
            if what in PROCESSES:
                return json_response(await run_in_threadpool(self.processes.begin, found, what))
            return json_response(await run_in_threadpool(change_run, self.folder, found, what, given))
        except (ValueError, RecursionError):
            raise HTTPException(400, what) from None
        except RushlightError as error:
            return json_response({"error": error.problem})


def asset(request: Request) -> Response:
    """Give one of the page's two files."""
    name = request.path_params["name"]
    kind = {"board.js": "text/javascript", "board.css": "text/css"}.get(name)
    if kind is None:
        raise HTTPException(404, "")
    return Response((PAGE / name).read_bytes(), media_type=kind)


def words(request: Request) -> Response:
    """Give the page's texts in one language."""
    if request.path_params["language"] not in LANGUAGES:
        raise HTTPException(404, "")
    return json_response(words_of(request.path_params["language"]))


def json_response(content: Any) -> Response:
    """Return an answer in JSON, in ASCII: names may be no UTF-8."""
    return Response(json.dumps(files.without_nan(content)).encode(), media_type="application/json")


def log_part(lines: list[dict[str, Any]], cursor: str, is_anew: bool) -> dict[str, Any]:
    """Return the new lines of a log, the next cursor, and whether they replace those before."""
    return {"lines": lines, "cursor": cursor, "anew": is_anew}


def whole_number(given: str | None) -> int | None:
    """Return a whole number from 0 on; None for anything else."""
    return int(given) if given is not None and given.isdecimal() and len(given) < 12 else None


def view_of(given: Callable[[str], str | None]) -> View:
    """Return the view that a request asks for; HTTPException for one that does not exist."""

    def number(name: str, usual: float | None) -> float | None:
        try:
            value = float(given(name) or "") if given(name) else usual
        except ValueError:
            raise HTTPException(400, name) from None
        if value is not None and not math.isfinite(value):
            raise HTTPException(400, name)
        return value

    axis: Any = given("axis") or "step"
    if axis not in get_args(Axis):
        raise HTTPException(400, "axis")
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
