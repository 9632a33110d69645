"""The models of a server and their versions: loaded aside, proven, then put in the place of older ones.

A folder of models has a folder for each, by name: a run or a bundle, or a folder for each version of it with one of these or
a `model.onnx`. In the last case `serve.json` beside the versions may name labels, the default, shares of requests, and a shadow:

    {"labels": {"stable": "3", "canary": "4"}, "default": "stable", "split": {"stable": 90, "canary": 10}, "shadow": "canary"}
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import RushlightError, UsageError
from rushlight.kinds import Kind, is_positive, is_text, named, wrong_entry
from rushlight.runs import is_run
from rushlight.serve.answers import Refusal
from rushlight.serve.batcher import Batcher
from rushlight.serve.metrics import Meter
from rushlight.serve.model import Model
from rushlight.texts import Note

PLAN = "serve.json"
PLAN_KIND: Kind = {
    "labels?": named(is_text), "default?": is_text, "split?": named(is_positive), "shadow?": is_text, "sticky?": is_text,
}  # fmt: skip
NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{0,199}[A-Za-z0-9_-]")  # of a model and of a version
PAUSE = 2.0  # seconds between two looks at the folder
Key = tuple[str, str]  # a model's name and a version


@dataclass
class Routing:
    """Which version of a model is asked where a request names none, or a label."""

    labels: dict[str, str] = field(default_factory=dict)
    default: str = ""  # "": the newest
    split: dict[str, float] = field(default_factory=dict)  # weights of labels and versions
    shadow: str = ""  # is asked too, and its answers are only compared
    sticky: str = "x-user-id"  # the header that keeps its sender at one version


@dataclass(frozen=True)
class Found:
    """A version in the folder: where it lies, and what its files' names, sizes and times are."""

    key: Key
    place: Path
    state: tuple[Any, ...]


class Registry:
    """All versions of all models. For one event loop; only opening a model is done elsewhere."""

    def __init__(
        self, folder: Path | None, open_version: Callable[[Path, str, str], Model], most_waiting: int,
        tell: Callable[[Note], object],
    ) -> None:  # fmt: skip
        self.folder, self.open_version, self.most_waiting, self.tell = folder, open_version, most_waiting, tell
        self.meter = Meter()
        self.models: dict[str, dict[str, Batcher]] = {}
        self.plans: dict[str, Routing] = {}
        self.refused: dict[Key, Note | str] = {}  # why what lies in the folder is not served
        self.seen: dict[Key, tuple[Any, ...]] = {}
        self.gone: set[Key] = set()  # were not there at the last look
        self.unloaded: set[Key] = set()  # stay unserved until they are asked for
        self.given: set[str] = set()  # the names of models that do not come from the folder
        self.turn, self.is_running = asyncio.Lock(), False

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

    def look(self) -> dict[Key, Found]:
        """Return the versions in the folder, and read the plans. What a name or a link leads out of the folder by is left alone."""
        found: dict[Key, Found] = {}
        if self.folder is None:
            return found
        root = self.folder.resolve()
        for model in named_folders(root, root):
            if place := served_place(model):
                found[model.name, "1"] = Found((model.name, "1"), place, files_state(place))
                continue
            for version in named_folders(model, root):
                place = served_place(version) or version
                found[model.name, version.name] = Found((model.name, version.name), place, files_state(place))
            self.read_plan(model)
        return found

    def read_plan(self, model: Path) -> None:
        """Read a model's plan where it has changed; one that cannot be read changes nothing, and is told."""
        path, key = model / PLAN, (model.name, PLAN)
        state = files_state(path)
        if self.seen.get(key, ()) == state:
            return
        self.seen[key] = state
        try:
            content = files.parse_json(files.read_bytes(path, files.MOST_JSON)) if state else {}
            if not isinstance(content, dict) or (entry := wrong_entry(content, PLAN_KIND)) is not None:
                raise ValueError(Note("export.garbled", name=PLAN, entry=entry if isinstance(content, dict) else ""))
            self.plans[model.name] = Routing(
                **{name: content[name] for name in Routing.__annotations__ if name in content}
            )
        except (OSError, ValueError) as error:
            self.tell(Note("serve.no-plan", name=model.name, reason=error))

    def due(self, found: dict[Key, Found]) -> list[Found]:
        """Return the versions that are new or have changed, and let go of those that were not there twice."""
        absent = {key for key in self.seen if key[1] != PLAN and key not in found}
        for name, version in absent & self.gone:
            self.remove(name, version)
        self.gone = absent
        return [entry for key, entry in found.items() if entry.state != self.seen.get(key) and key not in self.unloaded]

    def remove(self, name: str, version: str) -> None:
        """Serve a version no more; requests that it has are answered."""
        self.models.get(name, {}).pop(version, None)
        if not self.models.get(name, True):
            del self.models[name]
        self.seen.pop((name, version), None)
        self.refused.pop((name, version), None)
        self.meter.models.pop((name, version), None)  # figures of all that ever was would grow for ever

    def open(self, entry: Found) -> Model | Note:
        """Open, prove and measure a version, which may take seconds; return the reason where it is not to be served."""
        if entry.key[0] in self.given:
            return Note("serve.name-taken")
        try:
            return self.open_version(entry.place, *entry.key)
        except RushlightError as error:
            return error.record
        except Exception as error:  # an engine may raise anything, and the server goes on
            return Note("serve.broken", reason=type(error).__name__)

    def put(self, entry: Found, opened: Model | Note) -> None:
        """Serve what was opened, in the place of what the version was; where it is refused, that goes on."""
        if entry.key in self.unloaded:  # meanwhile
            return
        self.seen[entry.key] = entry.state
        name, version = entry.key
        if isinstance(opened, Model):
            self.refused.pop(entry.key, None)
            self.add(opened)
            if self.is_running:
                self.tell(Note("serve.loaded", name=name, version=version))
            return
        reason = str(opened).replace(str(entry.place), f"{name}/{version}")  # for requests: without the machine's paths
        self.refused[entry.key] = reason
        old = self.models.get(name, {})
        self.tell(Note("serve.refused", name=name, version=version, reason=opened))
        if old:
            self.tell(Note("serve.goes-on", name=name, versions=", ".join(sorted(old, key=natural))))

    def add(self, model: Model) -> None:
        """Serve a model: from the next request on."""
        versions = self.models.setdefault(model.name, {})
        versions[model.version] = Batcher(model, self.most_waiting, self.meter)

    def load_now(self) -> None:
        """Load all that is in the folder, before anything is served."""
        for entry in self.due(self.look()):
            self.put(entry, self.open(entry))
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
            for entry in self.due(await asyncio.to_thread(self.look)):
                self.put(entry, await asyncio.to_thread(self.open, entry))

    async def watch(self) -> None:
        """Look at the folder again and again; where it cannot be read, what is served goes on."""
        trouble = ""
        while True:
            await asyncio.sleep(PAUSE)
            try:
                await self.load_due()
                trouble = ""
            except OSError as error:
                if trouble != str(error):  # once
                    self.tell(Note("serve.no-look", reason=error.strerror or error))
                trouble = str(error)

    # ── by hand ──

    async def load(self, name: str, version: str = "") -> list[str]:
        """Load a model of the folder, or one version; return the versions. Refusal where there is none, or it is refused."""
        if self.folder is None or not NAME.fullmatch(name) or (version and not NAME.fullmatch(version)):
            raise Refusal(404, "serve-not-in-folder", name=name[:200])
        async with self.turn:
            entries = [
                entry
                for key, entry in (await asyncio.to_thread(self.look)).items()
                if key[0] == name and version in ("", key[1])
            ]
            if not entries:
                raise Refusal(404, "serve-not-in-folder", name=f"{name}/{version}" if version else name)
            for entry in entries:
                self.unloaded.discard(entry.key)
                self.put(entry, await asyncio.to_thread(self.open, entry))
        for entry in entries:
            if reason := self.refused.get(entry.key):
                raise Refusal(400, "serve-refused", name="/".join(entry.key), reason=reason)
        return [entry.key[1] for entry in entries]

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


def files_state(place: Path) -> tuple[Any, ...]:
    """Return names, sizes and times of the files that a version is made of; empty for what is not there."""
    folder = place / "model" if is_run(place) else place
    try:
        inside = sorted(folder.iterdir()) if folder.is_dir() else [folder]
        return tuple((path.name, (found := path.stat()).st_size, found.st_mtime_ns, found.st_ino) for path in inside)
    except OSError:  # it was taken away meanwhile
        return ()


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
