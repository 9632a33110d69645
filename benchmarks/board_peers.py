"""The same run in other boards: time to the first curve, memory, and how many of its extremes reach the page.

    python -m benchmarks.board --peers tensorboard=/path/to/venv trackio=/path/to/venv mlflow=/path/to/venv

A run of `STEPS` losses has `SPIKES` steps, at random places, whose losses stand nowhere else. Each board is filled by its own
library, served by its own command, and opened in a browser at the page of that run's curve. A spike is kept where its value is in
what the server sends to the page. The time runs from the request of the page to the frame after the answer that holds the curve;
memory is what all of the server's processes hold together (shared pages counted once, by PSS).
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.board import board_of, id_of, write_run
from benchmarks.measure import ROOT, Spread, end_group, say, spread

STEPS, SPIKES = 20_000, 50
SECONDS = 180  # until a board serves, or a curve is there
LEAST_POINTS = 100  # of an answer that holds the curve

WRITE = {
    "tensorboard": """
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter(place)
for step, loss in enumerate(losses): writer.add_scalar("loss", loss, step)
writer.close()
""",
    "trackio": """
import os
os.environ["TRACKIO_DIR"] = place
import trackio
trackio.init(project="p", name="run")
for step, loss in enumerate(losses): trackio.log({"loss": loss}, step=step)
trackio.finish()
""",
    "mlflow": """
import time
import mlflow
from mlflow.entities import Metric
mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")
with mlflow.start_run() as run:
    client, now = mlflow.MlflowClient(), int(time.time() * 1000)
    for first in range(0, len(losses), 1000):
        part = enumerate(losses[first : first + 1000], first)
        client.log_batch(run.info.run_id, metrics=[Metric("loss", loss, now + step, step) for step, loss in part])
print(f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}")
""",
}
SERVE = {
    "tensorboard": ["tensorboard", "--logdir", "{place}", "--port", "{port}", "--load_fast", "true"],
    "trackio": ["trackio", "show", "--project", "p"],
    "mlflow": ["mlflow", "server", "--backend-store-uri", "sqlite:///{place}/mlflow.db", "--port", "{port}"],
}
PAGES = {"tensorboard": "/?#timeseries", "trackio": "/?project=p", "mlflow": "/#/{said}/model-metrics"}


@dataclass(frozen=True)
class Opened:
    """What one opening of a board showed."""

    seconds: float
    megabytes: float
    kept: int  # spikes


def compare(browser: Any, environments: dict[str, Path], rounds: int) -> dict[str, tuple[Spread, Spread, int]]:
    """Return for each board the milliseconds to the first curve, the megabytes, and the spikes kept; in each round all in turn."""
    random = np.random.default_rng(0)
    losses = (np.exp(-np.arange(STEPS) / 20_000) + random.random(STEPS) / 5).astype(np.float32)
    places = random.choice(STEPS, SPIKES, replace=False)
    losses[places] = spikes = (20 + np.arange(SPIKES) / 8).astype(
        np.float32
    )  # each of them exact as a float32 and in decimals
    found: dict[str, list[Opened]] = {name: [] for name in ("rushlight", *environments)}
    with tempfile.TemporaryDirectory() as root:
        np.save(f"{root}/losses.npy", losses.astype(float))
        write_run(Path(root) / "rushlight" / "run", STEPS, random)
        losses.tofile(Path(root) / "rushlight" / "run" / "losses.f32")
        said = {}
        for name, environment in environments.items():
            say(f"writing {name} …")
            (Path(root) / name).mkdir()
            program = f"import numpy\nplace = {str(Path(root) / name)!r}\nlosses = numpy.load({f'{root}/losses.npy'!r}).tolist()\n{WRITE[name]}"
            done = subprocess.run(
                [environment / "bin" / "python", "-c", program], capture_output=True, text=True, check=True, cwd=root
            )
            said[name] = (done.stdout.strip().splitlines() or [""])[-1]
        for number in range(rounds):
            say(f"round {number + 1}")
            with board_of(Path(root) / "rushlight") as (address, process):
                context = browser.new_context(viewport={"width": 1400, "height": 900})
                context.request.get(address)
                page = f"{address.split('?')[0]}#/curves?runs={id_of('run')}"
                found["rushlight"].append(opened(context, page, process, spikes))
            for name, environment in environments.items():
                with served(name, environment, Path(root) / name) as (address, process):
                    context = browser.new_context(viewport={"width": 1400, "height": 900})
                    found[name].append(opened(context, address + PAGES[name].format(said=said[name]), process, spikes))
    return {
        name: (
            spread([1000 * one.seconds for one in all_]),
            spread([one.megabytes for one in all_]),
            min(one.kept for one in all_),
        )
        for name, all_ in found.items()
    }


@contextmanager
def served(name: str, environment: Path, place: Path) -> Iterator[tuple[str, int]]:
    """Serve a folder by a board's own command; give the address, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [part.format(place=place, port=port) for part in SERVE[name]]
    variables = {**os.environ, "TRACKIO_DIR": str(place), "GRADIO_SERVER_PORT": str(port), "BROWSER": "true"}
    variables.pop("PYTHONPATH", None)
    server = subprocess.Popen(
        [environment / "bin" / command[0], *command[1:]], cwd=place, env=variables, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{name} does not serve: {command}") from None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        end_group(server)


def opened(context: Any, address: str, process: int, spikes: np.ndarray) -> Opened:
    """Open a page, and wait for the answer that holds the curve."""
    page, ended = context.new_page(), list[Any]()
    page.on("requestfinished", ended.append)
    began = time.monotonic()
    page.goto(address, wait_until="commit")
    while time.monotonic() - began < SECONDS:
        page.wait_for_timeout(20)
        while ended:
            content = body_of(ended.pop(0))
            if content is not None and (kept := kept_in(content, spikes)) is not None:
                page.evaluate(
                    "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
                )
                shown = time.monotonic() - began
                page.wait_for_timeout(1000)
                megabytes = memory_of(process)
                context.close()
                return Opened(shown, megabytes, kept)
    raise RuntimeError(f"no curve at {address}")


def body_of(request: Any) -> bytes | None:
    """Return what was answered; None for what cannot be read or is part of the page itself."""
    if request.resource_type not in ("xhr", "fetch"):
        return None
    try:
        return bytes(request.response().body())
    except Exception:  # a redirect, or gone
        return None


def kept_in(content: bytes, spikes: np.ndarray) -> int | None:
    """Return how many spikes are in an answer; None for one that holds no curve."""
    if content[4:5] == b"{" and b'"places"' in content[:4000]:  # our own bytes
        header = 4 + int.from_bytes(content[:4], "little")
        return int(np.isin(spikes, np.frombuffer(content[header:], "<f4")).sum())
    if content.count(b",") < LEAST_POINTS or not (b"loss" in content or b"metric" in content or b"step" in content):
        return None
    kept = sum(
        any(form in content for form in (f":{spike}".encode(), f" {spike}".encode(), f",{spike}".encode()))
        for spike in spikes.tolist()
    )
    return kept if kept or content.count(b"step") > LEAST_POINTS else None


def memory_of(process: int) -> float:
    """Return the megabytes that a process and all that it began hold."""
    parents = {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    ours, known = {process}, 0
    while len(ours) > known:
        known = len(ours)
        ours |= {each for each, parent in parents.items() if parent in ours}
    kilobytes = 0
    for each in ours:
        lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024 / 1e6


def table(found: dict[str, tuple[Spread, Spread, int]], environments: dict[str, Path]) -> list[list[str]]:
    """Return the rows of the table: the board with its version, time, memory, spikes."""
    from benchmarks.output import figure

    rows = []
    for name, (seconds, memory, kept) in found.items():
        version = ""
        if name in environments:
            program = f"import importlib.metadata as m; print(m.version({name!r}))"
            done = subprocess.run(
                [environments[name] / "bin" / "python", "-c", program],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
            )
            version = f" {done.stdout.strip()}"
        rows.append([f"{name}{version}", figure(seconds), figure(memory), f"{kept} of {SPIKES}"])
    return rows
