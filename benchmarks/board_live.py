"""The board beside trainings that go on: campaigns with a count.

    python -m benchmarks.board_live [--hours 8 [--every 1]] [--kills 100] [--pairs 5] [--steps 50]

    --hours N   simulated hours of 20 live runs, a page's requests for each second of them: how far the server's memory grows
    --every N   of these, a page that asks every N seconds
    --kills N   a training is killed and resumed N times under an open page; then its curve is compared with a fresh load
    --pairs N   N trainings alone and N with the board open, in turn: their speed and their bits
    --steps N   N times: how long after it was made a step is on the page; and what a hidden page asks

The package playwright and a Chromium are needed; without an option, all are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.board import ARGUMENTS, CHROMIUM, board_of, id_of, write_run
from benchmarks.measure import ROOT, say, this_machine
from rushlight.runs import lock_run

LIVE = 20  # runs
RATE = 10  # steps a second of each
# exact: the default numerics may choose by timing
TRAINING = ["train", "mlp", "fashion-mnist", "--device", "cpu", "--quiet", "--numerics", "exact"]
SENTENCE = "document.querySelector('.chart .sentence')?.textContent ?? ''"
HIDE = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => HIDDEN}); document.dispatchEvent(new Event('visibilitychange'))"


def begin_again(folder: Path) -> None:
    """Make a run that has ended one that goes on."""
    history = folder / "history.jsonl"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:-1]))


def growth(hours: float, every: int) -> str:
    """Ask as an open page does, every so many seconds of live runs; return how the server's memory grew after the first tenth."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folders = [Path(place) / f"run-{number:02}" for number in range(LIVE)]
        for folder in folders:
            write_run(folder, 1000, np.random.default_rng(0))
            begin_again(folder)
            stack.enter_context(lock_run(folder))
        address, process = stack.enter_context(board_of(Path(place)))
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        ask = lambda path: browser.open(urllib.parse.urljoin(address, path)).read()  # noqa: E731
        ask(address)
        ids = [id_of(folder.name) for folder in folders]
        cursors, version, memory = {identity: ["", "", ""] for identity in ids}, 0, []
        losses, seconds = np.random.default_rng(1).random(RATE).astype("<f4").tobytes(), int(hours * 3600)
        for second in range(seconds):
            for folder in folders:
                with (folder / "losses.f32").open("ab") as file:
                    file.write(losses)
                if second % 10 == 0:
                    line = {
                        "kind": "steps",
                        "epoch": 11,
                        "step": 1000 + RATE * second,
                        "loss": 0.5,
                        "learning_rate": 0.1,
                        "time": 1e9 + second,
                    }
                    with (folder / "history.jsonl").open("a") as file:
                        file.write(json.dumps(line, separators=(",", ":")) + "\n")
            if second % every:
                continue
            version = json.loads(ask(f"/api/runs?since={version}"))["version"]
            logs = json.loads(ask("/api/logs?" + "&".join(f"run={'~'.join([one, *cursors[one]])}" for one in ids)))
            cursors = {one: [logs[one][name]["cursor"] for name in ("history", "values", "machine")] for one in ids}
            ask("/api/curves?axis=step&columns=1300&smooth=20&" + "&".join(f"run={one}" for one in ids))
            status = Path(f"/proc/{process}/status").read_text()
            memory.append(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024 / 1e6)
    first, last = (
        statistics.median(part)
        for part in (memory[len(memory) // 10 : len(memory) // 5], memory[-(len(memory) // 10) :])
    )
    return f"{seconds:,} simulated seconds of {LIVE} live runs, asked about every {every} s: {first:.1f} MB, then {last:.1f} MB ({last / first - 1:+.1%})"


def kills(count: int, browser: Any) -> str:
    """Kill and resume a training under an open page; return whether the page shows what a fresh load does."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "rushlight"]
        begun = [
            *command,
            "train",
            "mlp",
            "digits",
            "--epochs",
            "100000",
            "--quiet",
            "--runs",
            place,
            "--name",
            "killed",
        ]
        folder = Path(place) / "killed"
        with board_of(Path(place)) as (address, _):
            page = opened(browser, address)
            for number in range(count):
                arguments = begun if number == 0 else [*command, "resume", str(folder), "--quiet"]
                training = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                before = size_of(folder)
                while size_of(folder) in (before, 0) and training.poll() is None:  # a resume cuts it first
                    time.sleep(0.05)
                time.sleep(random.Random(number).uniform(0.2, 2))
                if training.poll() is not None:
                    raise RuntimeError(f"it ended by itself: {arguments}")
                training.kill()
                training.wait()
                if number == 0:
                    page.goto(f"{address.split('?')[0]}#/curves?runs={id_of('killed')}")
            steps = f"{size_of(folder) // 4:,} steps"
            page.wait_for_function(f"() => ({SENTENCE}).startsWith('{steps}')", timeout=60_000)
            page.wait_for_timeout(12_000)  # the list is asked for every ten seconds where nothing runs
            picture = "[document.querySelector('.plot canvas').toDataURL(), document.querySelector('.chart .sentence').textContent]"
            shown = page.evaluate(picture)
            page.reload()
            page.wait_for_function(
                f"() => ({SENTENCE}).startsWith('{steps}') && !document.querySelector('.plot.stale')", timeout=60_000
            )
            page.wait_for_timeout(1500)
            is_same = page.evaluate(picture) == shown
    return f"{count} kills and resumes under an open page, {steps}: {'the same curve as' if is_same else 'ANOTHER curve than'} a fresh load"


def size_of(folder: Path) -> int:
    """Return the bytes of a run's losses."""
    path = folder / "losses.f32"
    return path.stat().st_size if path.exists() else 0


def opened(browser: Any, address: str) -> Any:
    """Return a page that is let in."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(address)
    page.wait_for_selector("main")
    return page


def pairs(count: int, browser: Any) -> str:
    """Train alone and with the board open, in turn; return the ratio of their speeds, and whether the bits are the same."""
    ratios, digests = [], set()
    with tempfile.TemporaryDirectory() as place, board_of(Path(place)) as (address, _):

        def train(name: str) -> float:
            options = ["--runs", place, "--name", name, "--epochs", "5", "--seed", "0", "--json"]
            done = subprocess.run(
                [sys.executable, "-m", "rushlight", *TRAINING, *options],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout)
            digests.add(found["state_sha256"])
            return float(found["seconds"])

        for number in range(count):
            alone = train(f"alone-{number}")
            page = opened(browser, address) if number == 0 else page  # noqa: F821
            page.goto(f"{address.split('?')[0]}#/curves")
            together = train(f"together-{number}")
            page.goto("about:blank")
            ratios.append(alone / together)
            say(f"{alone:.1f} s alone, {together:.1f} s with the board")
    bits = "the same bits" if len(digests) == 1 else "OTHER BITS"
    return f"{count} trainings with the board open: {statistics.median(ratios):.1%} of the speed alone ({min(ratios):.1%}-{max(ratios):.1%}), {bits}"


def steps(count: int, browser: Any) -> str:
    """Return how long after it was written a step is on the page, and what a hidden page asks."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "live"
        write_run(folder, 1000, np.random.default_rng(0))
        begin_again(folder)
        with lock_run(folder), board_of(Path(place)) as (address, _):
            page, asked, delays = opened(browser, address), [], []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"{address.split('?')[0]}#/curves?runs={id_of('live')}")
            page.wait_for_function(f"() => ({SENTENCE}).includes('steps')")
            for number in range(count):
                page.wait_for_timeout(random.Random(number).uniform(100, 1500))
                with (folder / "losses.f32").open("ab") as file:
                    file.write(b"\0\0\0\0")
                began = time.monotonic()
                page.wait_for_function(f"() => ({SENTENCE}).startsWith('{1001 + number:,} steps')")
                delays.append(time.monotonic() - began)
            page.evaluate(HIDE.replace("HIDDEN", "true"))
            page.wait_for_timeout(2000)
            before = len(asked)
            page.wait_for_timeout(30_000)
            hidden = len(asked) - before
    return f"{count} steps, on the page after {statistics.median(delays):.2f} s (at most {max(delays):.2f} s); hidden for 30 s it asked {hidden} times"


def main() -> None:
    """Run what is asked for, and print a line of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.board_live", description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float)
    parser.add_argument("--every", type=int, default=1)
    for name in ("kills", "pairs", "steps"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    asked = {name: value for name, value in vars(options).items() if value is not None and name != "every"}
    asked = asked or {"hours": 8, "kills": 100, "pairs": 5, "steps": 50}
    from playwright.sync_api import sync_playwright

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(this_machine())
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, value in asked.items():
            load = os.getloadavg()[0]
            found = (
                growth(value, options.every)
                if name == "hours"
                else {"kills": kills, "pairs": pairs, "steps": steps}[name](int(value), browser)
            )
            print(f"- {found} (load {load:.1f})", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
