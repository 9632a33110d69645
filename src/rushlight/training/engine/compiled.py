"""Compiled steps: made by a process beside the training, kept in this account's cache, executed in place of eager kernels.

    <cache>/compiled/<key>/steps.so      machine code, for this processor and this torch
                           steps.json    what it takes; the SHA-256 of the code

The key is a digest of all that the code depends on: the model's layers and their settings, the optimizer's, the shapes, torch, the
processor, the threads. The process beside is a fork, so it has the live model; it works at low priority, and dies with the
training. What it makes is never trusted: `agreement.py` compares it with the exact step before it is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rushlight import files
from rushlight.data import cache_folder
from rushlight.device import cpu_name
from rushlight.training.engine.capture import Noise, NotCapturable, Pieces, capture, no_numbers
from rushlight.training.engine.fingerprint import constants_of, settings_of, source_of
from rushlight.training.engine.lower_matmul import Product, add_products, faster_products, separate_biases, use_products
from rushlight.training.engine.lower_pooling import compare_maxima, keep_layouts, pool_by_kernel

Layout = list[Any]  # shape, strides and dtype of a tensor
FORMAT = 4
NICENESS = 10  # of the process beside: about a tenth of a core where the training uses them all
TRIAL_SECONDS = 1200.0  # what hangs is given up after; at low priority beside a training, one step may take minutes
KEPT = 64  # packages in the cache
CODE, RECORD = "steps.so", "steps.json"
TRIED = "executed"  # what the process says that tries machine code
LEFTOVER_SECONDS = 86400.0  # what a killed process left in the cache is deleted after


@dataclass(frozen=True)
class Package:
    """Compiled steps on the disk."""

    key: str
    count: int  # steps in one call
    noise: tuple[Noise, ...]  # of all steps, in order
    products: tuple[Product, ...]  # the matrix products that another library computes
    takes: tuple[Layout, Layout]  # samples and targets of one call
    code_sha256: str

    @property
    def path(self) -> Path:
        """Where the machine code is."""
        return compiled_folder() / self.key / CODE


def compiled_folder() -> Path:
    """Return where compiled steps are kept: RUSHLIGHT_COMPILED, or this account's cache folder."""
    return cache_folder("RUSHLIGHT_COMPILED", "compiled")


def why_not_here() -> str | None:
    """Say why nothing can be compiled on this machine; None where it can."""
    if not hasattr(os, "fork") or sys.platform != "linux":
        return "compiling steps is for Linux, up to now"
    named = os.environ.get("CXX")
    compiler = named or "g++"
    if shutil.which(compiler) is None:
        hint = "" if named else "; on Debian or Ubuntu: sudo apt install g++"
        return f"no C++ compiler was found ({compiler}{hint})"
    if not hasattr(getattr(torch._C, "_aoti", None), "AOTIModelContainerRunnerCpu"):
        return f"torch {torch.__version__} cannot execute compiled steps"
    return None


def key_of(pieces: Pieces, takes: Sequence[Layout], count: int) -> str:
    """Return the digest of all that compiled steps depend on; `takes` are the layouts of the samples and targets of one call."""
    parts = pieces.parts
    groups = [
        {key: repr(value) for key, value in group.items() if key not in ("params", "lr", "initial_lr")}
        for group in parts.optimizer.param_groups
    ]
    content = {
        "format": FORMAT, "count": count, "takes": takes, "tensors": [layout(each) for each in pieces.written()],
        "names": [each.name for each in pieces.trained],
        "groups": groups, "group": [each.group for each in pieces.trained], "optimizer": type(parts.optimizer).__name__,
        "model": settings_of(parts.model), "loss": settings_of(pieces.loss), "code": source_of(parts.model, pieces.loss),
        "precision": parts.precision, "clip_norm": parts.clip_norm, "torch": torch.__version__, "python": sys.version,
        "processor": [cpu_name(), torch.backends.cpu.get_cpu_capability()], "threads": torch.get_num_threads(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def layout(tensor: Tensor) -> Layout:
    """Return shape, strides and dtype, JSON-ready."""
    return [list(tensor.shape), list(tensor.stride()), str(tensor.dtype)]


def layouts(batch: Any) -> list[Layout]:
    """Return the layouts of samples and targets."""
    return [layout(tensor) for tensor in batch]


def laid_out(takes: Sequence[Layout]) -> list[Tensor]:
    """Return tensors of these layouts, filled with zeros."""
    return [
        torch.empty_strided(shape, strides, dtype=getattr(torch, dtype.removeprefix("torch."))).zero_()
        for shape, strides, dtype in takes
    ]


def find_package(key: str) -> Package | None:
    """Return the package of a key, if it is in the cache and whole."""
    folder = compiled_folder() / key
    try:
        content = json.loads((folder / RECORD).read_bytes())
        if hashlib.sha256((folder / CODE).read_bytes()).hexdigest() != content["code_sha256"]:
            return None
        noise = tuple(
            Noise(each["kind"], tuple(each["shape"]), tuple(each["strides"]), tuple(each["settings"]), each["dtype"])
            for each in content["noise"]
        )
        samples, targets = content["takes"]
        products = products_from(content["products"])
        return Package(key, content["count"], noise, products, (samples, targets), content["code_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def products_from(content: Sequence[dict[str, Any]]) -> tuple[Product, ...]:
    """Return products as `asdict` and JSON have left them."""
    return tuple(Product(*each.values()) for each in content)


def forget_package(key: str) -> None:
    """Delete a package that turned out wrong."""
    files.delete_folder(compiled_folder() / key)


# ── making one ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Compilation:
    """A process that compiles beside the training."""

    pid: int
    key: str
    said: int  # the end of a pipe that it tells its failure by

    def result(self, waits: bool = False) -> Package | str | None:
        """Return what it made, or why it could not; None while it is at work."""
        with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored, nobody can wait; it is over then
            if os.waitpid(self.pid, 0 if waits else os.WNOHANG)[0] == 0:
                return None
        with os.fdopen(self.said, "rb") as pipe:
            reason = pipe.read().decode("utf-8", "replace")
        return find_package(self.key) or reason or "the process that compiled was killed"

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.said)


def start_compiling(
    pieces: Pieces, samples: Tensor, targets: Tensor, count: int, key: str, products: Sequence[Product] | None
) -> Compilation:
    """Fork a process that compiles `count` steps over the samples and targets, and puts them into the cache as `key`.

    Raises OSError where the system has no room for another process.
    """
    said, tells = os.pipe()
    threads, parent = torch.get_num_threads(), os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and newer warn of forks beside threads
        pid = os.fork()
    if pid:
        os.close(tells)
        return Compilation(pid, key, said)
    code = 1
    try:
        stand_aside(parent, tells)
        torch.set_num_threads(1)  # a fork has none of its parent's threads
        make_package(pieces, samples, targets, count, key, products, threads)
        code = 0
    except BaseException as error:
        text = str(error) if isinstance(error, (NotCapturable, BrokenCode)) else f"{type(error).__name__}: {error}"
        os.write(3, text.splitlines()[0][:300].encode() if text else b"?")
    finally:
        os._exit(code)


def stand_aside(parent: int, tells: int) -> None:
    """Make this forked process independent of its parent's files and signals, at low priority, to end when it ends.

    The run's lock is among the files: it must be free as soon as the parent is dead. `tells` becomes file 3.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal
    nothing = os.open(os.devnull, os.O_RDWR)
    for file in (0, 1, 2):
        os.dup2(nothing, file)
    os.dup2(tells, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # if memory runs out, this process goes first, and not the training
        Path("/proc/self/oom_score_adj").write_text("1000")
    warnings.simplefilter("ignore")  # nobody would read them
    end_with(parent)
    sys.stdout = sys.stderr = os.fdopen(1, "w")


def end_with(parent: int) -> None:
    """Let this process end when its parent does; at once, where it is gone already."""
    death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def make_package(
    pieces: Pieces,
    samples: Tensor,
    targets: Tensor,
    count: int,
    key: str,
    products: Sequence[Product] | None,
    threads: int,
) -> None:
    """Capture steps, compile them, and put them into the cache."""
    files.make_folder(compiled_folder())
    tidy(compiled_folder())
    with files.replacing_folder(compiled_folder() / key) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "build" / "cache")
        graph, noise = capture(pieces, samples, targets, count)
        keep_layouts(graph)
        if compare_maxima(graph):
            pool_by_kernel()
        chosen = tuple(faster_products(graph) if products is None else products)
        use_products(graph, chosen)
        separate_biases(graph)
        add_products(graph)
        arguments = (
            *pieces.written(), no_numbers(pieces, count), samples, targets,
            *(each.draw() for each in noise),
        )  # fmt: skip
        built = compile_graph(graph, arguments, folder / "build" / CODE, threads)
        try_out(built, [layout(tensor) for tensor in arguments], threads)
        code = built.read_bytes()
        shutil.rmtree(folder / "build")
        files.write_new(folder / CODE, [code])
        record = {
            "count": count, "noise": [asdict(each) for each in noise], "products": [asdict(each) for each in chosen],
            "takes": layouts((samples, targets)), "code_sha256": hashlib.sha256(code).hexdigest(),
        }  # fmt: skip
        files.write_new(folder / RECORD, [json.dumps(record).encode()])


def compile_graph(graph: torch.fx.GraphModule, arguments: tuple[Tensor, ...], path: Path, threads: int) -> Path:
    """Compile a graph ahead of time to machine code; return where it is."""
    import torch._inductor
    from torch._inductor import config

    options: dict[str, Any] = {
        "aot_inductor.output_path": str(path), "compile_threads": 1, "cpp.threads": threads, "fallback_random": True,
    }  # fmt: skip
    if hasattr(config.aot_inductor, "precompile_headers"):
        options["aot_inductor.precompile_headers"] = False  # they pay from the fifth build on; 290 MB would stay
    patches: dict[str, Any] = {"compile_threads": 1}
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        patches["cpp.vec_isa_ok"] = True  # torch itself uses it; the compiler would try for 6 s
    with torch.no_grad(), config.patch(patches):
        exported = torch.export.export(graph, arguments, strict=False)
        built = torch._inductor.aot_compile(exported.module(), arguments, options=options)
    return Path(str(built))


def try_out(code: Path, takes: Sequence[Layout], threads: int) -> None:
    """Execute machine code once, in a process of its own. Raises BrokenCode where that process does not say at its end that it did."""
    program = [
        sys.executable,
        "-P",
        "-m",
        "rushlight.training.engine.sandbox",
        str(code),
        str(threads),
        str(os.getpid()),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
    try:
        tried = subprocess.run(
            program, env=environment, input=json.dumps(takes), capture_output=True, text=True, timeout=TRIAL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise BrokenCode(f"the machine code did not come to an end within {TRIAL_SECONDS:.0f} seconds") from error
    if tried.stdout.strip() != TRIED:
        last = (tried.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BrokenCode(f"the machine code failed in the process that tried it ({tried.returncode}: {last})")


class BrokenCode(Exception):
    """Machine code crashed, failed or hung when it was tried."""


def tidy(folder: Path) -> None:
    """Delete what killed processes left in the cache, and the packages that were made the longest ago."""
    now = time.time()
    entries = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    packages = [path for path in entries if (path / RECORD).is_file()]
    left = [path for path in entries if path not in packages and now - path.stat().st_mtime > LEFTOVER_SECONDS]
    for path in [*left, *packages[: max(0, len(packages) - KEPT)]]:
        files.delete_folder(path)


# ── executing it ─────────────────────────────────────────────────────────────────────────────────────────────


class CompiledSteps:
    """Executes the steps of a package on a training's own tensors, in place."""

    def __init__(self, pieces: Pieces, package: Package) -> None:
        self.pieces, self.package = pieces, package
        self.runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(package.path), 1)
        self.count = package.count
        self.each = len(package.noise) // package.count  # drawings in a step
        self.constants = constants_of(pieces.optimizer)
        self.last_rates: list[Sequence[float]] = []  # that `numbers` are for, unless they change with each step
        self.numbers = no_numbers(pieces, self.count)
        self.wanted = [(*map(tuple, (shape, strides)), dtype) for shape, strides, dtype in package.takes]
        self.find()

    def find(self) -> None:
        """Look up the tensors again: loading a state puts others in their place."""
        optimizer = self.pieces.optimizer
        self.written = self.pieces.written()
        self.counters = [
            optimizer.state[each.parameter]["step"] for each in self.pieces.trained if self.pieces.rule.counts
        ]

    @property
    def is_current(self) -> bool:
        """Whether the optimizer has the settings that are built in here."""
        return constants_of(self.pieces.optimizer) == self.constants

    def takes(self, batch: Any) -> bool:
        """Tell whether the samples and targets are laid out as they were when this was compiled."""
        return all(
            tensor.shape == shape and tensor.stride() == strides and str(tensor.dtype) == dtype
            for tensor, (shape, strides, dtype) in zip(batch, self.wanted, strict=True)
        )

    def take(
        self,
        samples: Tensor,
        targets: Tensor,
        rates: Sequence[Sequence[float]],
        seeds: Sequence[int],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Take `count` steps; return the losses (count,) and the last step's outputs.

        `rates` are the learning rates of each step and group; `seeds` those of each step's random numbers.
        """
        if self.counters or list(rates) != self.last_rates:
            self.numbers, self.last_rates = torch.tensor(self.numbers_of(rates), dtype=torch.float64), list(rates)
        noise: list[Tensor] = []
        for step, seed in enumerate(seeds if self.each else ()):
            generator.manual_seed(seed)
            noise += [each.draw() for each in self.package.noise[step * self.each : (step + 1) * self.each]]
        losses, outputs = self.runner.run([*self.written, self.numbers, samples, targets, *noise])
        if self.counters:
            torch._foreach_add_(self.counters, self.count)
        return losses, outputs

    def numbers_of(self, rates: Sequence[Sequence[float]]) -> list[list[tuple[float, ...]]]:
        """Return what the next steps are computed with, by step and group."""
        rule, groups = self.pieces.rule, self.pieces.optimizer.param_groups
        done = int(self.counters[0]) if self.counters else 0
        return [
            [rule.numbers({**group, "lr": rate}, step) for group, rate in zip(groups, rates_of_step, strict=True)]
            for step, rates_of_step in enumerate(rates, done + 1)
        ]
