"""How quick the board is, in a real browser: the first curve, a zoom, many runs at once, a long list; and its memory.

    python -m benchmarks.board [--rounds 3]
    python -m benchmarks.board --peers tensorboard=/path/to/venv …    # the same run in other boards: see board_peers.py

Each case has a folder of run folders of its own, a board and a page of its own. A time runs from the browser's request to
the frame that shows the answer: cold ones begin with the page itself, a zoom with the change of the address.

The package playwright and a Chromium are needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import ROOT, say, spread, this_machine
from benchmarks.output import figure, markdown, rounds_of, standard_options

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]
DRAWN = "document.querySelector('.plot canvas') && !document.querySelector('.plot.stale')"
LISTED = "document.querySelector('.spacer')?.textContent.replaceAll(',', '').includes('COUNT of COUNT')"
# Resolves to the milliseconds until a condition holds in a frame that is drawn.
WAIT = """(begin) => new Promise((resolve) => {
    const since = begin ? performance.now() : 0;
    if (begin) eval(begin);
    const look = () => { if (CONDITION) requestAnimationFrame(() => resolve(performance.now() - since)); else requestAnimationFrame(look); };
    requestAnimationFrame(look);
})"""
PERMISSIVE = {"bypass_csp": True, "viewport": {"width": 1400, "height": 900}}  # the measuring script itself uses eval

TARGETS = {  # milliseconds; megabytes
    "10,000,000 steps, cold": 1000.0,
    "a zoom in them": 150.0,
    "100 runs of 100,000 steps, cold": 2000.0,
    "a zoom in these": 400.0,
    "10,000 runs listed, cold": 3000.0,
    "1,000 runs listed, cold": 1000.0,
    "1,000 runs listed, warm": 300.0,
    "memory of the server (MB)": 150.0,
}


def write_run(folder: Path, steps: int, random: np.random.Generator) -> None:
    """Write a run folder with losses that look like a training's."""
    folder.mkdir(parents=True)
    recipe = {
        "model": {"name": "mlp", "arguments": {}}, "data": {"name": "digits"}, "loss": {"name": "CrossEntropyLoss"},
        "optimizer": {"name": "SGD", "arguments": {"lr": 0.1}}, "epochs": 10, "batch_size": 64, "seed": 0,
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))
    losses = np.exp(-np.arange(steps) / max(steps / 5, 1)) + random.random(steps) / 5
    losses.astype("<f4").tofile(folder / "losses.f32")
    lines: list[dict[str, Any]] = [
        {"kind": "start", "run": folder.name, "epochs": 10, "steps_per_epoch": steps // 10, "time": 1.0e9}
    ]
    for epoch in range(1, 11):
        test = {"loss": 1 / epoch, "accuracy": 1 - 1 / (epoch + 1), "n": 100}
        lines.append({"kind": "epoch", "epoch": epoch, "step": epoch * steps // 10, "train_loss": 2 / epoch, "test": test,
                      "learning_rate": 0.1, "seconds": 1.0, "time": 1.0e9 + epoch})  # fmt: skip
    lines.append({"kind": "event", "event": "finished", "step": steps, "time": 1.0e9 + 11})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@contextmanager
def board_of(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve a folder; give the address, and the server's process."""
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "rushlight", "board", str(folder), "--no-open", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables, cwd=ROOT)
    assert server.stdout is not None
    try:
        yield next(match[0] for line in server.stdout if (match := re.search(r"http://\S+", line))), server.pid
    finally:
        server.terminate()  # SIGINT is not heard by what a shell began in the background
        server.wait(20)
        server.stdout.close()


def measure(
    browser: Any, folder: Path, view: str, condition: str, zooms: list[str], again: bool = False
) -> tuple[float, list[float], float, float]:
    """Return the milliseconds until a view is there, those of each zoom, the server's megabytes, and processor milliseconds.

    With `again` the page is loaded anew for each zoom. The processors' time until the view is there, of server and browser, tells how long a busy machine made both wait.
    """
    with board_of(folder) as (address, process):
        context = browser.new_context(**PERMISSIVE)
        context.request.get(address)  # lets it in, without a page that would ask for the list already
        page = context.new_page()
        wait = WAIT.replace("CONDITION", condition)
        before = processor_seconds()
        page.goto(f"{address.split('?')[0]}#/{view}", wait_until="commit")
        cold = float(page.evaluate(wait))
        spent = 1000 * (processor_seconds() - before)
        times = []
        for zoom in zooms:
            page.wait_for_timeout(200)
            if again:
                page.goto("about:blank")
                page.goto(f"{address.split('?')[0]}#/{view}{zoom}", wait_until="commit")
                times.append(float(page.evaluate(wait)))
                continue
            begin = f"location.hash = '#/{view}{zoom}'; "
            changed = wait.replace(condition, f"({condition}) && performance.now() - since > 20")
            times.append(float(page.evaluate(changed, begin)))
        memory = max_memory(process)
        context.close()
    return cold, times, memory, spent


def processor_seconds() -> float:
    """Return the processor time of all living processes that this one has begun, and theirs."""
    parents, spent = {}, {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                entries = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(place.name)], spent[int(place.name)] = int(entries[1]), int(entries[11]) + int(entries[12])
    ours, known = {os.getpid()}, 0
    while len(ours) > known:
        known = len(ours)
        ours |= {process for process, parent in parents.items() if parent in ours}
    return sum(spent[process] for process in ours - {os.getpid()}) / os.sysconf("SC_CLK_TCK")


def max_memory(process: int) -> float:
    """Return the most memory that a process has held, in megabytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024 / 1e6


def id_of(name: str) -> str:
    """Return the id by which the board knows a run."""
    from hashlib import sha256

    return sha256(name.encode()).hexdigest()[:12]


def main() -> None:
    """Measure, and print a table."""
    parser = standard_options("board", __doc__.splitlines()[0], 3)
    parser.add_argument("--peers", nargs="+", default=[], help="NAME=VENV: tensorboard, trackio, mlflow")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    if options.peers:
        from benchmarks.board_peers import compare, table

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are ended
        environments = {name: Path(place) for name, _, place in (peer.partition("=") for peer in options.peers)}
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            found = compare(browser, environments, rounds_of(options))
        print(this_machine())
        heads = ["board", "ms to the first curve: median (least-most)", "MB", "spikes kept"]
        print(markdown(heads, table(found, environments)))
        return

    scale = 100 if options.quick else 1
    random, found = np.random.default_rng(0), {name: [] for name in TARGETS}  # type: ignore[var-annotated]
    processors: dict[str, list[float]] = {name: [] for name in TARGETS}
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        say("writing runs …")
        long, many, list_, short = (Path(place) / name for name in ("long", "many", "list", "short"))
        write_run(long / "long", 10_000_000 // scale, random)
        for number in range(100 // min(scale, 10)):
            write_run(many / f"run-{number:03}", 100_000 // scale, random)
        for number in range(10_000 // scale):
            write_run(list_ / f"run-{number:05}", 10, random)
        for number in range(1_000 // min(scale, 10)):
            write_run(short / f"run-{number:04}", 10, random)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for round_ in range(rounds_of(options)):
            say(f"round {round_ + 1}")
            steps = 10_000_000 // scale
            zooms = [f"&low={int(steps * low)}&high={int(steps * high)}" for low, high in
                     ((0.1, 0.9), (0.2, 0.3), (0.25, 0.26), (0.255, 0.2551))]  # fmt: skip
            cold, times, memory, spent = measure(browser, long, f"curves?runs={id_of('long')}", DRAWN, zooms)
            found["10,000,000 steps, cold"].append(cold)
            processors["10,000,000 steps, cold"].append(spent)
            found["a zoom in them"].append(max(times))
            runs = ",".join(id_of(path.name) for path in sorted(many.iterdir()))
            steps = 100_000 // scale
            zooms = [f"&low={int(steps * low)}&high={int(steps * high)}" for low, high in ((0.1, 0.9), (0.4, 0.5))]
            cold, times, other, spent = measure(browser, many, f"curves?runs={runs}", DRAWN, zooms)
            found["100 runs of 100,000 steps, cold"].append(cold)
            processors["100 runs of 100,000 steps, cold"].append(spent)
            found["a zoom in these"].append(max(times))
            count = len(list(list_.iterdir()))
            cold, _, third, spent = measure(browser, list_, "runs", LISTED.replace("COUNT", str(count)), [])
            found["10,000 runs listed, cold"].append(cold)
            processors["10,000 runs listed, cold"].append(spent)
            count = len(list(short.iterdir()))
            listed = LISTED.replace("COUNT", str(count))
            cold, times, _, spent = measure(browser, short, "runs", listed, ["?sort=run"], again=True)
            found["1,000 runs listed, cold"].append(cold)
            processors["1,000 runs listed, cold"].append(spent)
            found["1,000 runs listed, warm"].append(times[0])
            found["memory of the server (MB)"].append(max(memory, other, third))
        browser.close()
    print(this_machine())
    rows = [
        [
            name,
            figure(spread(values)),
            figure(spread(processors[name])) if processors[name] else "",
            f"{TARGETS[name]:,.0f}",
        ]
        for name, values in found.items()
    ]
    print(markdown(["case", "ms: median (least-most)", "of processors", "target"], rows))


if __name__ == "__main__":
    main()
