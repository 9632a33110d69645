"""Compiling steps in another process while the training goes on.

That process is a fork, so it has the live model; it works at low priority, and ends with the training. Its machine code is
never trusted: it is executed once in a process of its own, and then verified against the exact step. This module is that
process's program: `python -m rushlight.training.engine.compiler CODE THREADS PARENT`, the layouts as JSON on its input.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from rushlight import files
from rushlight.texts import Note
from rushlight.training.engine.capture import CannotCompile, Pieces, capture, no_numbers
from rushlight.training.engine.lower_matmul import add_products, separate_biases
from rushlight.training.engine.lower_pooling import compare_maxima, keep_layouts
from rushlight.training.engine.package import (
    CACHE_VARIABLE,
    CODE,
    Layout,
    Package,
    compiled_folder,
    find_package,
    laid_out,
    layouts,
    tidy_cache,
    write_package,
)

PRIVATE = 0o700  # the mode of folders with machine code: who could write there could have it execute anything
NICENESS = 10  # of the process that compiles: about a tenth of a core where the training uses them all
TRIAL_SECONDS = 1200.0  # after which code that hangs is given up; at low priority, one step may take minutes
EXECUTED = "executed"  # what the process prints that has executed machine code


def why_not_here() -> str | None:
    """Return why nothing can be compiled on this machine; None where it can."""
    if not hasattr(os, "fork") or sys.platform != "linux":
        return Note("engine.compile.linux-only")
    named = os.environ.get("CXX")
    if shutil.which(named or "g++") is None:
        hint = Note("engine.compile.no-compiler-hint", compiler="g++")
        return Note("engine.compile.no-compiler", compiler=named) if named else hint
    if not hasattr(getattr(torch._C, "_aoti", None), "AOTIModelContainerRunnerCpu"):
        return Note("engine.compile.torch-cannot", torch=torch.__version__)
    folder = compiled_folder()
    if CACHE_VARIABLE in os.environ and folder.exists() and not files.is_ours_alone(folder):
        return Note("engine.compile.others-write", folder=folder)
    return None


@dataclass(frozen=True)
class Compilation:
    """A process that compiles while the training goes on."""

    pid: int
    key: str
    pipe: int  # by which it tells why it failed: the key of a text and its values, as JSON

    def result(self, waits: bool = False) -> Package | str | None:
        """Return its package, or why there is none; None while it is at work."""
        with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored, nobody can wait; it is over then
            if os.waitpid(self.pid, 0 if waits else os.WNOHANG)[0] == 0:
                return None
        with os.fdopen(self.pipe, "rb") as pipe:
            written = pipe.read()
        key, values = json.loads(written) if written else ("engine.compile.process-killed", {})
        return find_package(self.key) or Note(key, **values)

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.pipe)


def start_compiling(pieces: Pieces, batch: Sequence[Tensor], count: int, key: str) -> Compilation:
    """Fork a process that compiles `count` steps over a batch into the cache, as `key`.

    Raises OSError where the system has no room for another process.
    """
    reads, writes = os.pipe()
    threads, parent = torch.get_num_threads(), os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 and newer warn of forks where there are threads
        pid = os.fork()
    if pid:
        os.close(writes)
        return Compilation(pid, key, reads)
    code = 1
    gc.freeze()  # its parent's garbage stays: files in it would close the numbers that this process opens again
    try:
        stand_aside(parent, writes)
        torch.set_num_threads(1)  # a fork has none of its parent's threads
        make_package(pieces, batch, count, key, threads)
        code = 0
    except BaseException as error:
        first = (str(error).splitlines() or ["?"])[0][:300]
        reason = Note("engine.compile.raised", kind=type(error).__name__, message=first)
        note = error.reason if isinstance(error, CannotCompile) else reason
        os.write(3, json.dumps([note.key, note.values]).encode())
    finally:
        os._exit(code)


def stand_aside(parent: int, pipe: int) -> None:
    """Detach this fork from its parent's files and signals; lower its priority; end with it.

    The run's lock is among the files: it must be free as soon as the parent is dead. `pipe` becomes file 3.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal
    nothing = os.open(os.devnull, os.O_RDWR)
    for file in (0, 1, 2):
        os.dup2(nothing, file)
    os.dup2(pipe, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # if memory runs out, this process goes first, and not the training
        Path("/proc/self/oom_score_adj").write_text("1000")
    warnings.simplefilter("ignore")  # nobody would read them
    end_with(parent)
    sys.stdout = sys.stderr = os.fdopen(1, "w")


def end_with(parent: int) -> None:
    """Have this process end when its parent does; at once, where it is gone already."""
    death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def make_package(pieces: Pieces, batch: Sequence[Tensor], count: int, key: str, threads: int) -> None:
    """Capture steps, compile them, execute them once, and write them into the cache."""
    files.make_folder(compiled_folder())
    if CACHE_VARIABLE not in os.environ:
        compiled_folder().chmod(PRIVATE)
    tidy_cache()
    with files.replacing_folder(compiled_folder() / key) as folder:
        folder.chmod(PRIVATE)
        build = folder / "build"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(build / "cache")
        graph, noise = capture(pieces, batch[0], batch[1], count)
        keep_layouts(graph)
        compare_maxima(graph)
        separate_biases(graph)
        add_products(graph)
        arguments = (*pieces.written(), no_numbers(pieces, count), *batch, *(each.draw() for each in noise))
        built = compile_graph(graph, arguments, build / CODE, threads)
        try_out(built, layouts(arguments), threads)
        code = built.read_bytes()
        shutil.rmtree(build)
        write_package(folder, code, count, noise, batch)


def compile_graph(graph: GraphModule, arguments: tuple[Tensor, ...], path: Path, threads: int) -> Path:
    """Compile a graph ahead of time to machine code; return where it is."""
    import torch._inductor
    from torch._inductor import config

    options: dict[str, Any] = {
        "aot_inductor.output_path": str(path), "compile_threads": 1, "cpp.threads": threads, "fallback_random": True,
    }  # fmt: skip
    if hasattr(config.aot_inductor, "precompile_headers"):
        options["aot_inductor.precompile_headers"] = False  # they pay from the fifth build on; 290 MB would stay
    patches: dict[str, Any] = {"compile_threads": 1}
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        patches["cpp.vec_isa_ok"] = True  # torch itself uses them; the compiler would try for 4 to 6 s
    with torch.no_grad(), config.patch(patches):
        exported = torch.export.export(graph, arguments, strict=False)
        built = torch._inductor.aot_compile(exported.module(), arguments, options=options)
    return Path(str(built))


def try_out(code: Path, takes: Sequence[Layout], threads: int) -> None:
    """Execute machine code once, in another process; CannotCompile where it fails or hangs."""
    program = [sys.executable, "-P", "-m", __name__, str(code), str(threads), str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
    given: dict[str, Any] = {"input": json.dumps(takes), "timeout": TRIAL_SECONDS}
    try:
        tried = subprocess.run(program, env=environment, capture_output=True, text=True, **given)
    except subprocess.TimeoutExpired as error:
        raise CannotCompile(Note("engine.compile.no-end", seconds=TRIAL_SECONDS)) from error
    if tried.stdout.strip() != EXECUTED:
        last = (tried.stderr.strip().splitlines() or ["-"])[-1][:200]
        raise CannotCompile(Note("engine.compile.failed", code=tried.returncode, last=last))


def execute_once(code: str, threads: str, parent: str) -> None:
    """Execute machine code on tensors of zeros, and print that it was: that process's program."""
    end_with(int(parent))
    torch.set_num_threads(int(threads))
    torch._C._aoti.AOTIModelContainerRunnerCpu(code, 1).run(laid_out(json.load(sys.stdin)))
    sys.stdout.write(EXECUTED)
    sys.stdout.flush()
    os._exit(0)  # the end of an interpreter is not on trial


if __name__ == "__main__":
    execute_once(*sys.argv[1:])
