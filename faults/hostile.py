"""Hostile files: mutations of real ones, and traps, through every command. Nothing may execute, connect, hang, escape or be raw.

The cases run in another process, under limits of memory and time, with a hook on what Python executes, imports and connects.
That process's program is this module: `python -m faults.hostile WORK SEED FIRST LAST`.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faults.outcome import Outcome, Say, case_random

SECONDS = 10.0  # that a case may take
STARTING = 600.0  # that its process may take to begin, on a machine that does much else
MEMORY = 8 << 30  # bytes of address space
BATCH = 100  # cases in one process
EVIL = "a\x1b]52;c;ZQ==\x07b\x9b31mc\u202ed\u200be\nerror: f\rg"
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 7, 2**70, 10**400, 0.5, float("inf"), float("nan"), "", "x", EVIL, "\ud800", "x" * 100_000, [], [[]], {},
    {"name": EVIL}, [EVIL], "payload.py:Net", "payload:Net", "cifar10", "/dev/zero", "../../x", "$(touch ran)",
)  # fmt: skip
RUN_FILES = (
    "recipe.json", "environment.json", "report.json", "history.jsonl", "sessions.jsonl", "ways.json", "values.jsonl",
    "model/model.json", "checkpoints/*/state.json",
)  # fmt: skip
OF_A_RUN: tuple[tuple[str, ...], ...] = (
    ("runs",), ("runs", "it"), ("runs", "it", "--json"), ("runs", "--verify"), ("runs", "it", "--verify", "--json"), ("test", "it"),
    ("predict", "it", "x.npy"), ("save", "it", "out.pth"), ("save", "it", "out"), ("resume", "it", "--epochs", "2", "-q"),
)  # fmt: skip
OF_DATA: dict[str, tuple[str, ...]] = {
    "t.csv": ("data", "t.csv", "--target", "kind"), "t.csv.gz": ("data", "t.csv.gz", "--target", "kind"),
    "t.parquet": ("data", "t.parquet", "--target", "kind"), "t.npz": ("data", "t.npz"), "idx/train-images-idx3-ubyte": ("data", "idx"),
    "images/a/0.png": ("data", "images"), "images/b/1.png": ("data", "images", "--skip-bad"), "x.npy": ("predict", "it", "x.npy"),
    "images/a/2.png": ("predict", "it", "images/a/2.png"), "model.pth": ("load", "model.pth"), "model.safetensors": ("load", "model.safetensors"),
}  # fmt: skip


def campaign(count: int, seed: int, work: Path, say: Say) -> Outcome:
    """Try `count` hostile cases, and tell of each that does what no file may bring about."""
    work = work.resolve()
    make_seeds(work / "seeds")
    figures: Counter[str] = Counter({"executed": 0, "connected": 0, "hung": 0, "raw": 0, "escaped": 0, "refused": 0})
    failures: list[str] = []
    first = 0
    while first < count:
        last = min(count, first + BATCH)
        for line in results(work, seed, first, last):
            first = line["case"] + 1
            figures["refused"] += line["refused"]
            for kind in line["failed"]:
                figures[kind] += 1
                failures.append(f"case {line['case']} of seed {seed}: {kind}: {line['what']}: {line['detail']}")
            say(f"hostile: {first} of {count}, {len(failures)} failures")
    return Outcome("hostile", count, tuple(failures), dict(figures))


def results(work: Path, seed: int, first: int, last: int) -> Iterator[dict[str, Any]]:
    """Give the result of each case that one process works off; it is ended where a case takes too long."""
    place = work / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    environment = {
        **os.environ, "XDG_STATE_HOME": str(work / "state"), "RUSHLIGHT_DATA": str(work / "data"), "OMP_NUM_THREADS": "1",
        "RUSHLIGHT_LANGUAGE": "en",
    }  # fmt: skip
    command = [sys.executable, "-m", "faults.hostile", str(work), str(seed), str(first), str(last)]
    case = first
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        if not answer_of(process, STARTING):
            process.kill()
            raise RuntimeError(f"the process for the cases from {first} on did not begin")
        while case < last:
            if not (line := answer_of(process, 4 * SECONDS)):
                process.kill()
                detail = f"its process is gone ({process.wait()})"
                yield {"case": case, "failed": ["hung"], "refused": 0, "what": describe(seed, case), "detail": detail}
                return
            result = json.loads(line)
            yield result
            case = result["case"] + 1


def answer_of(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Return the next line that a process writes; b"" where it writes none in this time."""
    assert process.stdout is not None
    is_ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if is_ready else b""


def describe(seed: int, case: int) -> str:
    """Return what a case does, without doing it."""
    chosen = case_random("hostile", seed, case)
    return chosen.choice(KINDS).__name__


# ── the seeds ────────────────────────────────────────────────────────────────────────────────────────────────


def make_seeds(folder: Path) -> None:
    """Make the files that are mutated: a run, and data and weights of each kind."""
    import torch
    from PIL import Image

    import rushlight
    from faults.small import OPTIONS

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    loop = rushlight.epochs(
        "mlp", "digits", runs=folder / "runs", name="it", **{**OPTIONS, "epochs": 1, "compile": "never"}
    )
    for epoch in loop:
        epoch.log(figure=0.5, words="text")
    (folder / "runs" / "it" / "ways.json").write_text('{"ways": [{"step": 0, "name": "exact"}]}')
    model = loop.run.model
    torch.save(model.state_dict(), folder / "model.pth")
    loop.run.save(folder / "model.safetensors")
    rows = "".join(f"{i},{i % 7},{'yes' if i % 2 else 'no'}\n" for i in range(60))
    (folder / "t.csv").write_text(f"a,b,kind\n{rows}")
    (folder / "t.csv.gz").write_bytes(gzip.compress(f"a,b,kind\n{rows}".encode()))
    with contextlib.suppress(ImportError):
        import polars

        polars.read_csv(folder / "t.csv").write_parquet(folder / "t.parquet")
    numbers = np.random.default_rng(0)
    np.savez_compressed(folder / "t.npz", x=numbers.normal(size=(60, 3)).astype(np.float32), y=np.arange(60) % 3)
    np.save(folder / "x.npy", numbers.integers(0, 255, (3, 1, 8, 8), dtype=np.uint8))
    (folder / "idx").mkdir()
    images = numbers.integers(0, 255, (30, 8, 8), dtype=np.uint8)
    (folder / "idx" / "train-images-idx3-ubyte").write_bytes(
        b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes() + images.tobytes()
    )
    (folder / "idx" / "train-labels-idx1-ubyte").write_bytes(
        b"\0\0\x08\x01" + np.array([30], ">u4").tobytes() + bytes(i % 3 for i in range(30))
    )
    for name in ("a", "b"):
        (folder / "images" / name).mkdir(parents=True)
        for index in range(5):
            Image.fromarray(images[index]).save(folder / "images" / name / f"{index}.png")


# ── mutations: each changes a copy of the seeds and returns the command to give ──────────────────────────────

Mutation = Callable[[Path, random.Random], tuple[str, ...]]


def change_an_entry(place: Path, chosen: random.Random) -> tuple[str, ...]:
    """Replace, delete or nest some entries of a run's JSON; checksums are made right again."""
    path = chosen.choice(sorted(found for pattern in RUN_FILES for found in (place / "runs" / "it").glob(pattern)))
    lines = path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    number = chosen.randrange(len(lines))
    content = json.loads(lines[number])
    for _ in range(chosen.choice((1, 1, 1, 2, 5))):
        owner, key = chosen.choice(list(entries(content)) or [(content, None)])
        kind = chosen.randrange(10)
        if key is None:
            break
        if kind == 0:
            del owner[key]
        elif kind == 1:
            nested: Any = owner[key]
            for _ in range(chosen.choice((3, 90, 300, 900))):
                nested = [nested]
            owner[key] = nested
        else:
            owner[key] = copy.deepcopy(chosen.choice(ODD))  # a change may go into it
    with contextlib.suppress(RecursionError):
        lines[number] = json.dumps(content)
    lines[number] = lines[number].replace("Infinity", "1e400") if chosen.randrange(2) else lines[number]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    mend_sums(path)
    return chosen.choice(OF_A_RUN)


def entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give every entry in JSON values, as its owner and its key, however deep: nesting is one of the changes."""
    left = [value]
    while left:
        owner = left.pop()
        pairs = owner.items() if isinstance(owner, dict) else enumerate(owner) if isinstance(owner, list) else ()
        for key, entry in list(pairs):
            yield owner, key
            left.append(entry)


def mend_sums(path: Path) -> None:
    """Make the checksums right that cover a file: who makes a hostile one does that, too."""
    folder = path.parent
    if (folder / "SHA256SUMS").exists():
        lines = (f"{digest(folder / name)}  {name}\n" for name in ("state.json", "state.safetensors"))
        (folder / "SHA256SUMS").write_text("".join(lines))
    if path.suffix == ".safetensors" and (folder / "model.json").exists():
        described = json.loads((folder / "model.json").read_text())
        described["files"][path.name]["sha256"] = digest(path)
        (folder / "model.json").write_text(json.dumps(described))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change_bytes(place: Path, chosen: random.Random) -> tuple[str, ...]:
    """Change, cut or add some bytes of any file."""
    if chosen.randrange(2):
        name = chosen.choice([name for name in OF_DATA if (place / name).exists()])
        path, command = place / name, OF_DATA[name]
    else:
        path = chosen.choice(
            sorted(found for found in (place / "runs" / "it").rglob("*") if found.is_file() and found.stat().st_size)
        )
        command = chosen.choice(OF_A_RUN)
    content = bytearray(path.read_bytes())
    for _ in range(chosen.choice((1, 1, 2, 8, 64))):
        at = chosen.randrange(max(1, min(len(content), chosen.choice((64, 512, 1 << 20)))))
        kind = chosen.randrange(4)
        if kind == 0:
            content[at : at + 1] = bytes([chosen.randrange(256)])
        elif kind == 1:
            content[at : at + 4] = chosen.randbytes(4)
        elif kind == 2:
            content[at:at] = chosen.choice((b"\0" * 9, b"[" * 2000, b'"' * 3, b"\xff" * 8, EVIL.encode()))
        else:
            del content[at : at + chosen.choice((1, 16, len(content)))]
    path.write_bytes(content)
    mend_sums(path)
    return command


def set_a_trap(place: Path, chosen: random.Random) -> tuple[str, ...]:
    """Put a pipe, a device, a folder, a link to nothing, or a pickle in the place of a file."""
    if chosen.randrange(2):
        name = chosen.choice(list(OF_DATA))
        path, command = place / name, OF_DATA[name]
    else:
        path = chosen.choice(sorted(found for found in (place / "runs" / "it").rglob("*") if found.is_file()))
        command = chosen.choice(OF_A_RUN)
    path.unlink(missing_ok=True)
    kind = chosen.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to(chosen.choice(("/dev/zero", "/dev/urandom", "/dev/stdin", "/proc/self/mem")))
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to("nothing")
    else:
        path.write_bytes(pickle.dumps({"1.weight": Runs(str(place / "ran"))}))
    mend = contextlib.suppress(OSError, KeyError, ValueError)
    with mend:
        if path.is_file():
            mend_sums(path)
    return command


class Runs:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def name_code(place: Path, chosen: random.Random) -> tuple[str, ...]:
    """Have the recipe name code that lies somewhere, or data that is fetched."""
    where = chosen.choice(
        ("payload.py", "runs/it/payload.py", "runs/payload.py", "runs/it/__init__.py", "elsewhere/payload.py")
    )
    path = place / where
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"open({str(place / 'ran')!r}, 'w')\nfrom torch import nn\nclass Net(nn.Linear):\n    pass\n")
    module = where.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    reference = chosen.choice(
        (f"{where}:Net", f"{path}:Net", f"{module}:Net", f"./{where}:Net", "this:Net", "antigravity:Net")
    )
    recipe_path = place / "runs" / "it" / "recipe.json"
    recipe = json.loads(recipe_path.read_text())
    if chosen.randrange(3):
        recipe["model"] = {"import": reference, "name": "Net", "arguments": {}, "seed": 0}
        recipe["model"] |= {"source_sha256": digest(path)} if chosen.randrange(2) else {}
    else:
        recipe["data"][chosen.choice(("source", "test", "validation"))] = chosen.choice(
            ("cifar10", "mnist", "fashion-mnist")
        )
    recipe_path.write_text(json.dumps(recipe))
    if chosen.randrange(2):
        shutil.rmtree(place / "runs" / "it" / "model")
    return chosen.choice(OF_A_RUN[5:])


def give_names(place: Path, chosen: random.Random) -> tuple[str, ...]:
    """Give classes, columns, categories, files and runs names that command a terminal."""
    evil = "".join(
        chosen.choice((EVIL, "\x1b[2J", "\x07", "\u202e", "\ufeff", "\x9b1m", "$(touch ran)", "x", "\udce9"))
        for _ in range(3)
    )
    name = evil.replace("/", "")[:80]
    kind = chosen.randrange(5)
    if kind == 0:
        (place / "runs" / "it").rename(place / "runs" / name)
        return chosen.choice(
            (
                ("runs",),
                ("runs", "latest"),
                ("runs", "--verify"),
                ("test", "latest"),
                ("runs", "--json"),
                ("runs", name[:9]),
            )
        )
    if kind == 1:
        (place / "images" / "a").rename(place / "images" / name)
        return chosen.choice(
            (("data", "images"), ("train", "linear", "images", "--epochs", "1", "--compile", "never", "--name", "new"))
        )
    if kind == 2:
        text = evil.encode("utf-8", "ignore").decode().replace('"', "")
        rows = "".join(f'{i},"{text}{i % 3}","{text}{i % 2}"\n' for i in range(40))
        (place / "t.csv").write_text(f'a,"{text}",kind\n{rows}')
        return chosen.choice(
            (
                OF_DATA["t.csv"],
                ("data", "t.csv"),
                ("train", "linear", "t.csv", "--target", "kind", "--epochs", "1", "--name", "new"),
            )
        )
    if kind == 3:
        (place / "images" / "a" / f"{name}.png").write_bytes(b"no image")
        return chosen.choice(
            (("data", "images"), ("data", "images", "--skip-bad"), ("predict", "it", f"images/a/{name}.png"))
        )
    return chosen.choice(
        (
            ("train", name, "digits"),
            ("data", name),
            ("runs", name),
            (name,),
            ("train", f"{name}.py:Net", "digits"),
            ("save", "it", f"{name}/x"),
        )
    )


KINDS: tuple[Mutation, ...] = (change_an_entry, change_an_entry, change_an_entry, change_bytes, change_bytes, set_a_trap, name_code, give_names)  # fmt: skip


# ── the process that tries them ──────────────────────────────────────────────────────────────────────────────


class Watch:
    """Notes what Python executes out of a folder, what it imports from it, and where it connects to."""

    def __init__(self, place: Path) -> None:
        self.place, self.seen = str(place), Counter[str]()
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hear an audit event of Python's."""
        if (event == "exec" and getattr(arguments[0], "co_filename", "").startswith(self.place)) or (
            event == "import" and str(arguments[0]) in ("this", "antigravity", "payload")
        ):
            self.seen["executed"] += 1
        elif event in ("os.system", "pickle.find_class"):
            self.seen["executed"] += event == "os.system"
        elif event in ("socket.connect", "socket.getaddrinfo"):
            self.seen["connected"] += 1
            raise ConnectionRefusedError("no connection is allowed here")


def try_case(work: Path, seed: int, case: int, watch: Watch) -> dict[str, Any]:
    """Make and try one case."""
    chosen = case_random("hostile", seed, case)
    mutate = chosen.choice(KINDS)
    place = work / "place" / str(case)
    shutil.copytree(work / "seeds", place, symlinks=True)
    os.chdir(place)
    command = mutate(place, chosen)
    raised: list[BaseException] = []
    output = io.StringIO()
    watch.seen.clear()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    failed, detail = [], ""
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            give(command, raised)
    except TimeoutError:
        failed.append("hung")
    except BaseException as error:
        raised.append(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    from rushlight.errors import RushlightError

    raw = [error for error in raised if not isinstance(error, (RushlightError, SystemExit, TimeoutError))]
    if raw:
        failed.append("raw")
        detail = f"{type(raw[0]).__name__}: {raw[0]}"[:300]
    if any(isinstance(error, TimeoutError) for error in raised):
        failed.append("hung")
    if any(
        unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in output.getvalue().replace("\n", "")
    ):
        failed.append("escaped")
        detail = ascii(output.getvalue())[:500]
    if (place / "ran").exists():
        watch.seen["executed"] += 1
    failed += [kind for kind, count in watch.seen.items() if count]
    os.chdir(work)
    shutil.rmtree(place, ignore_errors=True)
    return {
        "case": case, "failed": failed, "refused": int(bool(raised)), "what": f"{mutate.__name__}, {' '.join(command)!a}",
        "detail": detail,
    }  # fmt: skip


def give(command: tuple[str, ...], raised: list[BaseException]) -> None:
    """Give a command; errors that it shows are added to `raised`."""
    import rushlight
    from rushlight import cli, console

    if command[0] == "load":
        try:
            rushlight.load(command[1], rushlight.load("runs/it"))
        except Exception as error:
            raised.append(error)
        return
    show = console.print_error

    def noting(error: BaseException, traceback: bool = False) -> None:
        raised.append(error)
        show(error, traceback)

    console.print_error = noting
    try:
        cli.main(list(command))
    except SystemExit:
        pass
    finally:
        console.print_error = show


def end_case(*_: object) -> None:
    """End a case that takes too long."""
    raise TimeoutError("this case takes too long")


def work_off(work: Path, seed: int, first: int, last: int) -> None:
    """Try the cases from `first` up to `last`, and write a line on each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    import polars  # noqa: F401  # and its threads, before memory is limited
    import torch

    import rushlight

    torch.set_num_threads(1)
    os.chdir(work / "seeds")
    _ = rushlight.load("runs/it")
    rushlight.open_data("images")
    watch = Watch(work / "place")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, end_case)
    answers.write("ready\n")
    answers.flush()
    for case in range(first, last):
        answers.write(json.dumps(try_case(work, seed, case, watch)) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    work_off(Path(sys.argv[1]), *map(int, sys.argv[2:]))
