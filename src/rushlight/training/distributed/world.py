"""The processes of one run: who they are, and the few things that they tell each other.

A launcher sets torch's environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) for each process. They find each other by
torch's key-value store and talk through gloo, in groups of their own: torch's default process group is left alone, so
that nothing which looks for it (torchmetrics, say) waits for the others. Cards add up by NCCL.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, rendezvous  # type: ignore[attr-defined]

from rushlight.errors import TrainingError, first_line, problem_of
from rushlight.signals import Terminated
from rushlight.texts import Note

JOIN_SECONDS = 300.0  # that the processes of a run wait for each other at its start
STEP_SECONDS = 1800.0  # that one waits for the others in a step: a process that dies is noticed at once, one that stands still by this
FIRST_SECONDS = 86400.0  # that the others wait for what the first does alone: an evaluation, the end of a run
REASON_SECONDS = 3.0  # that the reason of another process's end is waited for
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_stores: list[Any] = []  # the launcher's, once it was asked for
_joined: list[int] = []  # of the runs that this process has joined, one entry each


class ProcessLost(TrainingError):
    """Another process of the run ended without a word: it was killed, or its machine is gone."""


class Round(NamedTuple):
    """What the processes handed in together."""

    contents: list[bytes]  # of the others, by rank, in the first process
    have: list[bool]  # by rank: whether it handed in anything
    asked: int  # the greatest number that one asked
    refused: bool  # whether one refuses


class World:
    """The processes that train one run, and this one's rank among them, from 0. `ALONE` is the only one of its run."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self.store = rank, size, store
        self.noted: int | None = None  # the signal that asked this process to stop
        self.is_saving = False  # whether the state is saved after the step that is done
        self.folder: str | None = None  # the run's, in the first process
        self.steps: Any = None  # torch's groups
        self.first: Any = None
        self.cards: Any = None  # NCCL's, where each process has a card of its own
        self.is_set_up = False
        self.is_divided = False  # whether the model is: no process can compute by itself
        self.has_default = False  # whether torch's default group is this one's
        if store is not None:
            self.steps, self.first = (
                ProcessGroupGloo(PrefixStore(name, store), rank, size, timeout=timedelta(seconds=JOIN_SECONDS))
                for name in ("steps", "first")
            )
            self.steps._set_default_timeout(timedelta(seconds=STEP_SECONDS))
            self.first._set_default_timeout(timedelta(seconds=FIRST_SECONDS))

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files and shows its progress."""
        return self.rank == 0

    @property
    def is_shared(self) -> bool:
        """Whether there are other processes."""
        return self.size > 1

    # ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────

    def add_up(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes; the bits are the same in all of them."""
        with self.explained(STEP_SECONDS):
            on_card = self.cards or self.steps
            for work in [(on_card if tensor.is_cuda else self.steps).allreduce([tensor]) for tensor in tensors]:
                work.wait()

    def meet_on_cards(self, device: torch.device) -> int:
        """Have what lies on cards added up by NCCL, if each process has one of its own; else gloo does, through main memory.

        Return how many cards the processes have together.
        """
        own = str(torch.cuda.get_device_properties(device).uuid)
        found = self.gather([own, torch.distributed.is_nccl_available()])
        count = len({card for card, _ in found})
        if count == self.size and all(has_nccl for _, has_nccl in found):
            from torch.distributed import ProcessGroupNCCL

            settings = ProcessGroupNCCL.Options()
            settings._timeout = timedelta(seconds=STEP_SECONDS)
            self.cards = ProcessGroupNCCL(PrefixStore("cards", self.store), self.rank, self.size, settings)
        return count

    def give(self, tensor: Tensor, root: int = 0) -> None:
        """Replace a tensor by that of process `root`; it has the same shape in all."""
        with self.explained(FIRST_SECONDS):
            whole = tensor.contiguous()
            self.first.broadcast(whole, root).wait()
            if whole is not tensor:
                tensor.copy_(whole)

    def mesh(self) -> Any:
        """Return all processes as torch's DeviceMesh, which asks for torch's default process group."""
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        if not dist.is_initialized():
            store = PrefixStore("shards", self.store)
            timeout = timedelta(seconds=STEP_SECONDS)
            dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=timeout)
            self.has_default = True
        return init_device_mesh("cpu", (self.size,))

    def share(self, content: bytes = b"", root: int = 0) -> bytes:
        """Return the bytes that process `root` gives."""
        with self.explained(FIRST_SECONDS):
            length = torch.tensor([len(content)])
            self.first.broadcast(length, root).wait()
            shared = torch.empty(int(length), dtype=torch.uint8)
            if self.rank == root:
                shared = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else shared
            if len(shared):
                self.first.broadcast(shared, root).wait()
            return shared.numpy().tobytes()

    def share_tensors(self, tensors: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the first process's tensors, by name, as copies; in the others `tensors` is not asked."""
        given = {}
        if self.is_first:  # copies: a file has no two tensors in one memory
            given = {
                name: each.detach().clone(memory_format=torch.contiguous_format) for name, each in tensors().items()
            }
        told = self.share(safetensors.torch.save(given) if self.is_first else b"")
        return given if self.is_first else safetensors.torch.load(told)

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON-ready values that the processes give, by rank."""
        mine = json.dumps(value).encode()
        return [json.loads(self.share(mine if rank == self.rank else b"", rank)) for rank in range(self.size)]

    def hand_in(
        self, content: bytes | None, error: Exception | None, is_memory: bool, asked: int, refuses: bool
    ) -> Round:
        """Give the first process what each has, and all of them the rest of the round; None is nothing.

        What went wrong in any process ends it in all: its own `error` is raised; in the others MemoryError where it
        `is_memory` that ran out, else TrainingError.
        """
        told = torch.zeros(self.size, 5, dtype=torch.float64)
        failed = 0 if error is None else 2 if is_memory else 1
        told[self.rank] = torch.tensor([failed, asked, content is not None, len(content or b""), refuses])
        self.add_up(told)
        if told[:, 0].any():
            rank = int(told[:, 0].argmax())
            problem = self.share(b"" if error is None else problem_of(error).encode(), rank).decode()
            if error is not None:
                raise error
            if told[rank, 0] == 2:
                raise MemoryError(problem)
            raise TrainingError("process-failed", rank=rank, processes=self.size, problem=problem)
        contents = []
        with self.explained(STEP_SECONDS):
            for rank, length in enumerate(told[:, 3].long().tolist()):
                if length and self.is_first and rank:
                    received = torch.empty(length, dtype=torch.uint8)
                    self.steps.recv([received], rank, 0).wait()
                    contents.append(received.numpy().tobytes())
                elif length and rank == self.rank and rank:
                    self.steps.send([torch.frombuffer(bytearray(content or b""), dtype=torch.uint8)], 0, 0).wait()
        return Round(contents, told[:, 2].bool().tolist(), int(told[:, 1].max()), bool(told[:, 4].any()))

    def first_does(self, work: Callable[[], Any]) -> Any:
        """Have the first process do the work, and return its JSON-ready result in all of them.

        What it raises ends the others too: an interruption as it is, an error as TrainingError.
        """
        if not self.is_shared:
            return work()
        if not self.is_first:
            told = json.loads(self.share())
            if "exit" in told:
                raise KeyboardInterrupt if told["exit"] is None else SystemExit(told["exit"])
            if "error" in told:
                raise TrainingError("process-failed", rank=0, processes=self.size, problem=told["error"])
            return told["result"]
        try:
            result = work()
        except BaseException as error:
            is_exit = isinstance(error, (KeyboardInterrupt, SystemExit, Terminated))
            told = {"exit": getattr(error, "code", None)} if is_exit else {"error": problem_of(error)}
            with contextlib.suppress(TrainingError):  # the first error is the one to show
                self.share(json.dumps(told).encode())
            raise
        self.share(json.dumps({"result": result}).encode())
        return result

    def set_up(self, error: Exception | None = None) -> None:
        """Return once every process is ready to begin; TrainingError where another is not, for its `error`.

        To be called once by each, before anything is written.
        """
        if not self.is_shared or self.is_set_up:
            return
        self.is_set_up = True
        problems = self.gather(None if error is None else problem_of(error))
        rank = next((rank for rank, problem in enumerate(problems) if problem is not None), None)
        if error is None and rank is not None:
            raise TrainingError("process-failed", rank=rank, processes=self.size, problem=problems[rank])

    def check_alike(self, tensors: Iterable[Tensor]) -> None:
        """Raise TrainingError where the tensors are not, bit for bit, those of the first process."""
        if not self.is_shared:
            return
        found = 0
        for tensor in tensors:
            found = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, found)
        digests = self.gather(found)
        rank = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
        if rank is not None:
            raise TrainingError("processes-drifted", rank=rank, processes=self.size)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def explained(self, seconds: float, *, of_all: bool = True) -> Iterator[None]:
        """Turn the error of a connection that is lost, or silent for `seconds`, into that of the other process.

        Without `of_all` the block does other work too, whose errors stay as they are.
        """
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if not of_all and not (self.is_divided and "gloo" in str(error)):
                raise
            waited, told = time.monotonic() - began, self.reason()
            if told is None:
                text = first_line(error)  # "[…/pair.cc:553] Connection closed by peer […]:62139. This is …"
                reason = (text.partition("] ")[2] if text.startswith("[") else text).partition(". ")[0]
                if waited >= seconds:
                    reason = Note("training.process-stands-still", seconds=seconds)
                raise ProcessLost("process-lost", rank=self.rank, processes=self.size, reason=reason) from error
            raise TrainingError("process-failed", **told) from error

    def reason(self) -> dict[str, Any] | None:
        """Return why another process ended, as it told; None where it told nothing."""
        until = time.monotonic() + REASON_SECONDS
        while time.monotonic() < until:
            try:
                if self.store.check(["error"]):
                    found: dict[str, Any] = json.loads(self.store.get("error"))
                    return found
            except RuntimeError:  # the store is gone with the process that held it
                return None
            time.sleep(0.1)
        return None

    def leave(self, error: BaseException | None = None) -> None:
        """Tell the others the error that ends the run here, and close the connections to them."""
        if self.steps is None:
            return
        if isinstance(error, Exception) and not isinstance(error, ProcessLost):
            told = {"rank": self.rank, "processes": self.size, "problem": problem_of(error)}
            with contextlib.suppress(RuntimeError):
                self.store.compare_set("error", "", json.dumps(told))
        if self.cards is not None:
            self.cards.abort()  # else the end of the process waits for it
        self.steps = self.first = self.cards = None
        if (
            self.has_default and error is None
        ):  # else others may be in the middle of something, which that would wait for
            torch.distributed.destroy_process_group()
            self.has_default = False


ALONE = World()


def launched_by() -> tuple[int, int] | None:
    """Return rank and number of processes as a launcher has set them; None where it is a process by itself."""
    if any(name not in os.environ for name in NEEDED):
        return None
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError:
        return None
    return (rank, size) if size > 1 else None


def restarts() -> int:
    """Return how often torch's launcher has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") or 0)


def joined_world() -> World:
    """Return the processes that this one was launched with, once all are there; `ALONE` where it is by itself.

    Raises:
        ProcessLost: one of them did not come in time.
    """
    place = launched_by()
    if place is None:
        return ALONE
    rank, size = place
    reason = Note("training.process-did-not-come", seconds=JOIN_SECONDS)
    try:
        if not _stores:
            _stores.append(next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))[0])
        _joined.append(rank)
        # a prefix of their own for those that were restarted: addresses in the store are of processes that are gone
        return World(rank, size, PrefixStore(f"rushlight/{restarts()}/{len(_joined)}", _stores[0]))
    except RuntimeError as error:
        raise ProcessLost("process-lost", rank=rank, processes=size, reason=reason) from error


def remember_run(name: str) -> None:
    """Note the run that this launch trains, for its processes to go on with where they are restarted."""
    _stores[0].set(f"rushlight/run/{len(_joined)}", name)


def remembered_run() -> str | None:
    """Return the name of the run that restarted processes go on with; None where they are new, or none was begun."""
    key = f"rushlight/run/{len(_joined)}"
    return _stores[0].get(key).decode() if restarts() and _stores[0].check([key]) else None
