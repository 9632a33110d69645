"""The command line of the campaigns."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from faults.outcome import Outcome, Say

SHORT = {
    "kills": 40,
    "processes": 6,
    "studies": 6,
    "power": 1000,
    "damage": 1000,
    "disk": 60,
    "hostile": 200,
    "serve": 10,
    "fuzz": 1000,
    "soak": 4000,
}  # about two minutes on two cores
FORKS = ("kills", "processes", "studies")
MODULES = {"processes": "together"}  # where a campaign is, if not in a module of its name
HELP = {
    "kills": "processes that train, killed with SIGKILL at random moments and resumed: the result must have the same bytes",
    "processes": "runs of several processes, of which one is killed: the others end, and all resume to the same bytes",
    "studies": "searches killed with SIGKILL at random moments: the study must end with the trials that it would have had",
    "power": "states that a power cut can leave the disk in: no good checkpoint may be lost, no bad one be used",
    "damage": "flipped, cut or missing bytes: each must be found before anything is used",
    "hostile": "files made by somebody else: none may execute, connect, hang, command the terminal, or end in an exception's own words",
    "disk": "operations that the disk refuses (full, failing, no permission): nothing that was saved may be lost",
    "serve": "versions swapped under load, with bad requests, overload, slow clients, killed workers, signals and flipped bits: no good request may fail",
    "fuzz": "requests with anything changed in them, to a server of every kind of input: none may be answered 5xx, or not at all",
    "soak": "requests to a server, over connections that come and go: it must not grow by 2 %% after it has warmed up",
}
EPILOG = """\
Without a count a short campaign of every kind runs, in about two minutes. What fails is kept, and named with the command
that repeats it alone. Examples:

  python -m faults                              the short campaign
  python -m faults --kills 1000 --seed 0        a thousand kills
  python -m faults --seed 0 --case 17           case 17 of the kills of seed 0, alone
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaigns that were asked for; return 1 if anything failed."""
    chosen = parse(arguments)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell leaves it to what it begins in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait take a busy machine's cores
    counts = {name: getattr(chosen, name) for name in HELP if getattr(chosen, name)}
    if chosen.case is not None:
        counts = {"kills": 1}
    counts = counts or {name: count for name, count in SHORT.items() if name not in FORKS or hasattr(os, "fork")}
    work = chosen.work or Path(tempfile.mkdtemp(prefix="rushlight-faults-"))
    os.environ["XDG_STATE_HOME"] = str(work / "state")  # what the account remembers of its runs is none of these
    began = time.perf_counter()
    outcomes = []
    for name, count in counts.items():
        (work / name).mkdir(parents=True, exist_ok=True)
        outcomes.append(run(name, count, chosen.seed, work / name, teller(), chosen.case))
    failed = sum(len(outcome.failures) for outcome in outcomes)
    show(outcomes, chosen.seed, time.perf_counter() - began, chosen.json)
    if not failed and chosen.work is None:
        shutil.rmtree(work)
    return 1 if failed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        "python -m faults", description="Break training on purpose, and check that nothing is lost.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    for name, text in HELP.items():
        parser.add_argument(f"--{name}", type=whole, metavar="N", help=f"N {text}")
    parser.add_argument("--seed", type=int, default=0, help="all that is drawn at random follows from it (0)")
    parser.add_argument("--case", type=int, metavar="N", help="only case N of the kills, as a failure names it")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where the runs are made, and kept (a temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of tables")
    chosen = parser.parse_args(arguments)
    if (any(getattr(chosen, name) for name in FORKS) or chosen.case is not None) and not hasattr(os, "fork"):
        parser.error(f"{', '.join(f'--{name}' for name in FORKS)} need a system with fork: Linux or macOS")
    return chosen


def whole(text: str) -> int:
    """Return a count."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(text)


def run(name: str, count: int, seed: int, work: Path, say: Say, case: int | None) -> Outcome:
    """Run one campaign. Each is imported when it is wanted: FORKS come first, since a process that forks must not have trained."""
    campaign: Callable[..., Outcome] = importlib.import_module(f"faults.{MODULES.get(name, name)}").campaign
    return campaign(count, seed, work, say) if case is None else campaign(count, seed, work, say, only=case)


def teller() -> Say:
    """Return what shows a line of progress on standard error: in place on a terminal, else every ten seconds."""
    shown_at = 0.0

    def say(text: str) -> None:
        nonlocal shown_at
        if sys.stderr.isatty():
            tell(f"\r\033[K{text}", sys.stderr)
        elif time.monotonic() - shown_at >= 10:
            tell(f"{text}\n", sys.stderr)
            shown_at = time.monotonic()

    return say


def tell(text: str, stream: TextIO | None = None) -> None:
    """Write text to standard output, or to another stream, at once."""
    stream = stream or sys.stdout
    stream.write(text)
    stream.flush()


def show(outcomes: Sequence[Outcome], seed: int, seconds: float, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        campaigns = [asdict(outcome) for outcome in outcomes]
        tell(json.dumps({"seed": seed, "seconds": round(seconds, 1), "campaigns": campaigns}) + "\n")
        return
    if sys.stderr.isatty():
        tell("\r\033[K", sys.stderr)
    for outcome in outcomes:
        tell(f"\n{outcome.name}: {outcome.tried:,} tried, {len(outcome.failures):,} failed\n")
        width = max(map(len, outcome.figures), default=0)
        for name, value in outcome.figures.items():
            tell(f"  {name:<{width}}  {value:>8,}\n")
    for outcome in outcomes:
        for failure in outcome.failures:
            tell(f"\nFAILED {outcome.name}: {failure}\n")
    tell(f"\nSeed {seed}, {seconds:,.0f} s.\n")


if __name__ == "__main__":
    sys.exit(main())
