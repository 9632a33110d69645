"""The models of a server and their versions: loaded aside, proven, then put in the place of older ones.

A folder of models has a folder for each, by name: a run or a bundle, or a folder for each version of it with one of these or
a `model.onnx`. In the last case `serve.json` beside the versions may name labels, the default, shares of requests, and a shadow:

    {"labels": {"stable": "3", "canary": "4"}, "default": "stable", "split": {"stable": 90, "canary": 10}, "shadow": "canary"}

Each of several workers has a registry of its own, and all are the same: what changes one is told to `others`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rushlight import files
from rushlight.errors import RushlightError, UsageError
from rushlight.kinds import Kind, is_positive, is_text, named, wrong_entry
from rushlight.runs import is_run
from rushlight.serve.answers import Refusal
from rushlight.serve.batcher import Batcher
from rushlight.serve.metrics import Figures, Meter, added
from rushlight.serve.model import Model, files_state
from rushlight.texts import Note

PLAN = "serve.json"
PLAN_KIND: Kind = {
    "labels?": named(is_text), "default?": is_text, "split?": named(is_positive), "shadow?": is_text, "sticky?": is_text,
}  # fmt: skip
NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{0,199}[A-Za-z0-9_-]")  # of a model and of a version
PAUSE = 2.0  # seconds between two looks at the folder
Key = tuple[str, str]  # a model's name and a version
# by model: the state of its file, and what is in it, None for nonsense
Plans = dict[str, tuple[str, dict[str, Any] | None]]
Others = Callable[..., Awaitable[list[Any]]]


@dataclass
class Routing:
    """Which version of a model is asked where a request names none, or a label."""

    labels: dict[str, str] = field(default_factory=dict)
    default: str = ""  # "": the newest
    split: dict[str, float] = field(default_factory=dict)  # weights of labels and versions
    shadow: str = ""  # is asked too, and its answers are only compared
    sticky: str = "x-user-id"  # the header that keeps its sender at one version


class Found(NamedTuple):
    """A version in the folder: where it lies, and what its files' names, sizes and times are."""

    name: str
    version: str
    place: str
    state: str

    @property
    def key(self) -> Key:
        """The name and the version."""
        return self.name, self.version


async def nobody(command: str, *arguments: Any) -> list[Any]:
    """Ask the other workers of a server that has none."""
    return []


class Registry:
    """All versions of all models. For one event loop; only opening a model is done elsewhere."""

    def __init__(
        self, folder: Path | None, open_version: Callable[..., Model], most_waiting: int,
        tell: Callable[[Note], object],
    ) -> None:  # fmt: skip
        self.folder, self.open_version, self.most_waiting, self.tell = folder, open_version, most_waiting, tell
        self.meter = Meter()
        self.models: dict[str, dict[str, Batcher]] = {}
        self.plans: dict[str, Routing] = {}
        self.refused: dict[Key, str] = {}  # why what lies in the folder is not served
        self.seen: dict[Key, str] = {}  # the states of files
        self.gone: set[Key] = set()  # were not there at the last look
        self.unloaded: set[Key] = set()  # stay unserved until they are asked for
        self.given: set[str] = set()  # the names of models that do not come from the folder
        self.is_running = False
        # held, in all workers, by who changes what is served
        self.turn: AbstractAsyncContextManager[Any] = asyncio.Lock()
        self.others: Others = nobody  # calls a method of the other workers' registries, and returns what these return
        self.aside: dict[Key, Model | Note] = {}  # was opened for another worker, which says what becomes of it
        self.trouble = ""  # with the folder, at the last look

    # ── asking ──

    def batchers(self) -> Iterator[Batcher]:
        """Give all versions that are served."""
        return (batcher for versions in self.models.values() for batcher in versions.values())

    def find(self, name: str, wanted: str = "", key: str | None = None) -> Batcher:
        """Return the version that a request is for: a version, a label, or "" for that of the plan. Refusal where there is none.

        `key` is what keeps a sender at one version of a split.
        """
        name = self.named(name)
        versions, plan = self.models.get(name, {}), self.plans.get(name, Routing())
        if not wanted and len(versions) > 1:
            shares = {self.number(plan, of): share for of, share in plan.split.items()}
            shares = {number: share for number, share in shares.items() if number in versions}
            wanted = drawn(shares, key) if shares else self.default(name)
        batcher = versions.get(self.number(plan, wanted)) if wanted else next(iter(versions.values()), None)
        if batcher is None:
            known = ", ".join(f"{model}/{version}" for model, own in self.models.items() for version in own)
            raise Refusal(404, "serve-no-model", name=f"{name}/{wanted}" if wanted else name, known=known)
        return batcher

    def named(self, name: str) -> str:
        """Return the name of the model that is meant: the first one's where none is given."""
        return name or next(iter(self.models), "")

    def default(self, name: str) -> str:
        """Return the version that is asked where no other is named: that of the plan, else the newest."""
        plan, versions = self.plans.get(name, Routing()), self.models[name]
        chosen = self.number(plan, plan.default)
        return chosen if chosen in versions else max(versions, key=natural)

    def number(self, plan: Routing, given: str) -> str:
        """Return the version that a label stands for."""
        return plan.labels.get(given, given)

    def shadow_of(self, batcher: Batcher) -> Batcher | None:
        """Return the version that is asked too, and only compared."""
        name = batcher.model.name
        if (plan := self.plans.get(name)) is None:
            return None
        other = self.models.get(name, {}).get(self.number(plan, plan.shadow))
        return None if other is batcher else other

    def state(self) -> list[dict[str, str]]:
        """Return the index of the repository extension: what is served, and what is not, with the reason."""
        served = {(batcher.model.name, batcher.model.version): batcher for batcher in self.batchers()}
        reasons: dict[Key, Any] = dict.fromkeys(self.unloaded, "unloaded") | self.refused
        reasons |= {key: batcher.failure for key, batcher in served.items() if batcher.failure is not None}
        is_ready = {key: key in served and served[key].failure is None for key in {**served, **reasons}}
        states = {key: "READY" if ready else "UNAVAILABLE" for key, ready in is_ready.items()}
        return [
            {"name": key[0], "version": key[1], "state": state, "reason": str(reasons.get(key, ""))}
            for key, state in states.items()
        ]

    # ── the folder ──

    def look(self) -> tuple[dict[Key, Found], Plans]:
        """Return the versions in the folder, and the plans that have changed.

        What a name or a link leads out of the folder by is left alone.
        """
        found: dict[Key, Found] = {}
        plans: Plans = {}
        if self.folder is None:
            return found, plans
        root = self.folder.resolve()
        for model in named_folders(root, root):
            if place := served_place(model):
                found[model.name, "1"] = Found(model.name, "1", str(place), files_state(place))
                continue
            for version in named_folders(model, root):
                place = served_place(version) or version
                found[model.name, version.name] = Found(model.name, version.name, str(place), files_state(place))
            state = files_state(model / PLAN)
            if self.seen.get((model.name, PLAN), "") != state:
                plans[model.name] = state, self.read_plan(model) if state else {}
        return found, plans

    def read_plan(self, model: Path) -> dict[str, Any] | None:
        """Return a model's plan; one that cannot be read is told, and is None."""
        try:
            content = files.parse_json(files.read_bytes(model / PLAN, files.MOST_JSON))
            if not isinstance(content, dict) or (entry := wrong_entry(content, PLAN_KIND)) is not None:
                raise ValueError(Note("export.garbled", name=PLAN, entry=entry if isinstance(content, dict) else ""))
            return {name: content[name] for name in Routing.__annotations__ if name in content}
        except (OSError, ValueError) as error:
            self.tell(Note("serve.no-plan", name=model.name, reason=error))
            return None

    def changes(self) -> tuple[list[Found], list[Key], Plans]:
        """Return the versions that are new or have changed, those that were not there twice, and the plans that have changed."""
        found, plans = self.look()
        absent = {key for key in self.seen if key[1] != PLAN and key not in found}
        gone, self.gone = absent & self.gone, absent
        due = [each for key, each in found.items() if each.state != self.seen.get(key) and key not in self.unloaded]
        return due, sorted(gone), plans

    def follow(self, gone: list[Key], plans: Plans) -> None:
        """Let go of versions, and go by other plans."""
        for name, version in gone:
            self.remove(name, version)
        for name, (state, content) in plans.items():
            self.seen[name, PLAN] = state
            if content is not None:
                self.plans[name] = Routing(**content)

    def remove(self, name: str, version: str) -> None:
        """Serve a version no more; requests that it has are answered."""
        self.models.get(name, {}).pop(version, None)
        if not self.models.get(name, True):
            del self.models[name]
        self.seen.pop((name, version), None)
        self.refused.pop((name, version), None)
        self.meter.models.pop((name, version), None)  # figures of all that ever was would grow for ever

    def open(self, entry: Found, *measured: list[Any]) -> Model | Note:
        """Open, prove and measure a version, which may take seconds; return the reason where it is not to be served.

        Where another process has `measured` it, this one goes by that.
        """
        if entry.name in self.given:
            return Note("serve.name-taken")
        try:
            return self.open_version(Path(entry.place), *entry.key, *measured)
        except RushlightError as error:
            return error.record
        except Exception as error:  # an engine may raise anything, and the server goes on
            return Note("serve.broken", reason=type(error).__name__)

    def put(self, entry: Found, opened: Model | str) -> None:
        """Serve what was opened, in the place of what the version was; where it is refused, that goes on."""
        self.seen[entry.key] = entry.state
        if isinstance(opened, Model):
            self.refused.pop(entry.key, None)
            self.add(opened)
        else:  # for requests: without the machine's paths
            self.refused[entry.key] = str(opened).replace(entry.place, "/".join(entry.key))

    def tell_put(self, entry: Found, opened: Model | str) -> None:
        """Say what became of a version."""
        name, version = entry.key
        if isinstance(opened, Model):
            if self.is_running:
                self.tell(Note("serve.loaded", name=name, version=version))
            return
        self.tell(Note("serve.refused", name=name, version=version, reason=opened))
        if old := self.models.get(name):
            self.tell(Note("serve.goes-on", name=name, versions=", ".join(sorted(old, key=natural))))

    def add(self, model: Model) -> None:
        """Serve a model: from the next request on."""
        versions = self.models.setdefault(model.name, {})
        versions[model.version] = Batcher(model, self.most_waiting, self.meter)

    def load_now(self) -> None:
        """Load all that is in the folder, before anything is served."""
        due, _, plans = self.changes()
        self.follow([], plans)
        for entry in due:
            opened = self.open(entry)
            self.put(entry, opened)
            self.tell_put(entry, opened)
        self.is_running = True
        if self.folder is not None and not (self.models and self.folder.is_dir()):
            raise UsageError(
                "serve-no-models",
                path=self.folder,
                reasons=" ".join(map(str, self.refused.values())) or Note("serve.nothing"),
            )

    async def load_due(self) -> None:
        """Load what is new or has changed in the folder, beside what is served."""
        async with self.turn:
            due, gone, plans = await asyncio.to_thread(self.changes)
            if gone or plans:
                await self.everywhere("follow", gone, plans)
            for entry in due:
                await self.load_entry(entry)

    async def load_entry(self, entry: Found) -> None:
        """Open a version in every worker, then serve it in all of them; or in none, where one of them refuses it."""
        opened: Model | str = await asyncio.to_thread(self.open, entry)
        if isinstance(opened, Model):
            opened = next(filter(None, await self.others("open_aside", entry, opened.measured)), opened)
        await self.others("put_aside", entry, "" if isinstance(opened, Model) else opened)
        self.put(entry, opened)
        self.tell_put(entry, opened)

    async def open_aside(self, entry: Sequence[str], measured: list[Any]) -> str:
        """Open a version that is not served yet, as another worker has measured it; return why it cannot be, else ""."""
        found = Found(*entry)
        opened = await asyncio.to_thread(self.open, found, measured)
        self.aside = {found.key: opened}
        return "" if isinstance(opened, Model) else opened

    def put_aside(self, entry: Sequence[str], reason: str) -> None:
        """Serve the version that was opened aside, or note why it is refused."""
        found = Found(*entry)
        opened = self.aside.pop(found.key, reason)
        self.put(found, reason or opened)

    async def everywhere(self, method: str, *arguments: Any) -> None:
        """Do the same in all workers: here first, where a Refusal ends it."""
        getattr(self, method)(*arguments)
        await self.others(method, *arguments)

    async def watch(self) -> None:
        """Look at the folder; where it cannot be read, what is served goes on."""
        try:
            await self.load_due()
            self.trouble = ""
        except OSError as error:
            if self.trouble != str(error):  # once
                self.tell(Note("serve.no-look", reason=error.strerror or error))
            self.trouble = str(error)

    # ── by hand ──

    async def load(self, name: str, version: str = "") -> list[str]:
        """Load a model of the folder, or one version; return the versions. Refusal where there is none, or it is refused."""
        if self.folder is None or not NAME.fullmatch(name) or (version and not NAME.fullmatch(version)):
            raise Refusal(404, "serve-not-in-folder", name=name[:200])
        async with self.turn:
            found, plans = await asyncio.to_thread(self.look)
            entries = [each for each in found.values() if each.name == name and version in ("", each.version)]
            if not entries:
                raise Refusal(404, "serve-not-in-folder", name=f"{name}/{version}" if version else name)
            await self.everywhere("follow", [], plans)
            for entry in entries:
                await self.everywhere("allow", *entry.key)
                await self.load_entry(entry)
        for entry in entries:
            if reason := self.refused.get(entry.key):
                raise Refusal(400, "serve-refused", name="/".join(entry.key), reason=reason)
        return [entry.version for entry in entries]

    def allow(self, name: str, version: str) -> None:
        """Let a version be loaded that was unloaded."""
        self.unloaded.discard((name, version))

    def unload(self, name: str, version: str = "") -> None:
        """Serve a model, or one version, no more until it is loaded again. Refusal where it is not served."""
        for number in [version] if version else [*self.models.get(name, {"": None})]:
            self.find(name, number)
            self.remove(name, number)
            self.unloaded.add((name, number))

    def set_default(self, name: str, version: str) -> None:
        """Let a version answer where none is named, until the plan in the folder changes."""
        plan = self.plans.setdefault(name, Routing())
        plan.default, plan.split = self.find(name, version).model.version, {}

    # ── of all workers ──

    async def prove(self) -> list[tuple[str, str, str]]:
        """Return of each version why it does not repeat its recorded examples now, "" where it does."""
        return [
            (batcher.model.name, batcher.model.version, str(await asyncio.to_thread(batcher.model.prove) or ""))
            for batcher in [*self.batchers()]
        ]

    def judge(self, proofs: list[tuple[str, str, str]]) -> None:
        """Ask no more what has failed its proof, and again what has not."""
        for name, version, reason in proofs:
            if (batcher := self.models.get(name, {}).get(version)) is not None:
                batcher.failure = reason or None

    def figures(self) -> Figures:
        """Return what this process has counted, and what is so now; drift is of a model's very files."""
        waiting: Figures = {}
        drift: Figures = {}
        for batcher in self.batchers():
            name, version = batcher.model.name, batcher.model.version
            waiting.setdefault(name, {})[version] = [len(batcher.waiting), batcher.waiting_rows]
            drift.setdefault(name, {})[version] = {batcher.model.state: batcher.drift.figures()}
        return {"counts": self.meter.counts(), "now": {"workers": 1, "waiting": waiting, "drift": drift}}

    async def all_figures(self) -> Figures:
        """Return the figures of all workers, those of the counts of workers that are no more among them."""
        found = own = self.figures()
        for other in await self.others("figures"):
            found = added(found, other)
        # of what was served once, no figures are kept
        served, models = own["counts"]["models"], found["counts"]["models"]
        found["counts"]["models"] = {name: {number: models[name][number] for number in served[name]} for name in served}
        return found

    def snapshot(self) -> dict[str, Any]:
        """Return what another process needs to serve the same, as JSON has it."""
        served = [
            [model.name, model.version, str(model.source), model.state, model.measured, batcher.failure]
            for batcher in self.batchers()
            for model in [batcher.model]
        ]
        return {
            "served": served, "given": sorted(self.given), "plans": {name: asdict(plan) for name, plan in self.plans.items()},
            "seen": [[*key, state] for key, state in self.seen.items()], "unloaded": sorted(self.unloaded),
            "refused": [[*key, reason] for key, reason in self.refused.items()],
        }  # fmt: skip

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Serve what another process serves. UsageError where files have changed since it opened them."""
        self.given = {*snapshot["given"]}
        self.plans = {name: Routing(**plan) for name, plan in snapshot["plans"].items()}
        self.seen = {(name, version): state for name, version, state in snapshot["seen"]}
        self.refused = {(name, version): reason for name, version, reason in snapshot["refused"]}
        self.unloaded = {(name, version) for name, version in snapshot["unloaded"]}
        self.is_running = True
        for name, version, source, state, measured, failure in snapshot["served"]:
            model = self.open_version(Path(source), name, version, measured)
            if model.state != state:
                raise UsageError("serve-files-changed", name=f"{name}/{version}")
            self.add(model)
            self.models[name][version].failure = failure


def named_folders(folder: Path, root: Path) -> list[Path]:
    """Return the folders in a folder whose names can be a model's or a version's, and that lie below `root`."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    named = [path for path in inside if NAME.fullmatch(path.name) and path.is_dir()]
    return [path for path in named if path.resolve().is_relative_to(root)]


def served_place(folder: Path) -> Path | None:
    """Return what is served of a folder: a bundle, a run's folder, or an ONNX file; None for anything else."""
    if (folder / "model.json").is_file() or is_run(folder):
        return folder
    return folder / "model.onnx" if (folder / "model.onnx").is_file() else None


def natural(version: str) -> tuple[Any, ...]:
    """Return a key by which 10 comes after 9."""
    return tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", version) if part
    )


def drawn(shares: dict[str, float], key: str | None) -> str:
    """Return a version by its share: the same for the same key, any without one."""
    place = random.random() if key is None else int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
    place *= sum(shares.values())
    for version, share in shares.items():
        place -= share
        if place < 0:
            return version
    return next(reversed(shares))
