"""Finds the state that a user's objects hold besides a model's tensors: generators, numbers, states of their own.

Objects are followed through their attributes, containers and closures, the attributes of their classes, and the globals that
their methods name. Containers of more than `MOST_ENTRIES` entries and NumPy arrays of more than `SMALL_BYTES` are left out:
they are data.
"""

from __future__ import annotations

import dis
import functools
import random
import sys
import zlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

MOST_ENTRIES = 1000  # of a container
MOST_OBJECTS = 20_000
MOST_DEPTH = 12
SMALL_BYTES = 1 << 20  # an array or tensor up to here is copied when a run begins, to be compared
MOST_BYTES = 1 << 26  # of a value that a checkpoint keeps

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
SCALARS = (bool, int, float, str, type(None))
SEQUENCES = (list, tuple, set, deque)
DICTS = (dict, OrderedDict, Counter, defaultdict)
FOREIGN = sys.stdlib_module_names - {"__main__"} | {"numpy", "torch", "rushlight", "PIL", "pandas", "polars", "pyarrow"}
FOLLOWED = ("torch.nn.", "torch.utils.data.")
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
MODULE_OWN = frozenset(vars(nn.Module())) - {"_modules", *MODULE_HOOKS}  # attributes that torch manages
OWN_STATES = (("state_dict", "load_state_dict"), ("get_extra_state", "set_extra_state"))

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip
MISSING = object()

Place = tuple[Any, Any]  # a dict and a key of it, or an object and the name of an attribute


# ── random generators ────────────────────────────────────────────────────────────────────────────────────────


def state_of(generator: Any) -> Any:
    """Return a generator's state, in plain values, arrays and tensors."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, np.random.BitGenerator):
        return generator.state
    version, words, gauss = generator.getstate()
    return version, np.array(words, np.uint32), gauss


def set_state(generator: Any, state: Any) -> None:
    """Set a generator to a state that `state_of` returned."""
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = state
    else:
        version, words, gauss = state
        generator.setstate((version, tuple(words.tolist()), gauss))


def seed_each(generators: Iterable[Any], seed: int) -> None:
    """Seed generators, each with a number of its own that follows from `seed` and its place: CRC-32 of 'own/seed/place'."""
    for place, generator in enumerate(generators):
        own = zlib.crc32(b"own/%d/%d" % (seed, place))
        if isinstance(generator, torch.Generator):
            generator.manual_seed(own)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(own).state
        elif isinstance(generator, np.random.BitGenerator):
            generator.state = type(generator)(own).state
        else:  # NumPy's RandomState and Python's Random
            generator.seed(own)


def generators_in(*roots: Any, without: Iterable[Any] = ()) -> list[Any]:
    """Return the random generators anywhere in objects, in the order in which they are found."""
    return list(Walk({str(number): root for number, root in enumerate(roots)}, without).generators.values())


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────


class Walk:
    """What is found in objects, by path: `model.4.calls`, `train.sampler.epoch`, `train.<Noisy>.rng` of a class."""

    def __init__(self, roots: Mapping[str, Any], without: Iterable[Any] = ()) -> None:
        self.generators: dict[str, Any] = {}
        self.places: dict[str, Place | None] = {}  # of the generators
        self.values: dict[str, Place] = {}  # plain ones
        self.stateful: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {}  # to get and to set a state
        self.others: dict[str, Any] = {}  # of which only a change can be noticed
        self.sources: list[str] = []  # iterators and the system's randomness, whose state nobody can read
        self.owners: dict[str, Any] = {}  # where a new attribute would be set: of each object, by its path
        self.seen = {id(each) for each in without}
        for name, root in roots.items():
            self.visit(name, root, depth=0)

    def visit(self, path: str, value: Any, place: Place | None = None, depth: int = 0) -> None:
        """Note what a value holds; `place` is where it is held."""
        if type(value) in SCALARS:
            if place is not None:
                self.values[path] = place
            return
        if id(value) in self.seen or depth > MOST_DEPTH or len(self.seen) > MOST_OBJECTS:
            return
        if type(value) is not tuple:  # equal ones are often the same
            self.seen.add(id(value))
        if isinstance(value, random.SystemRandom) or (isinstance(value, Iterator) and not hasattr(value, "fileno")):
            self.sources.append(path)
        elif isinstance(value, GENERATORS):
            self.generators[path], self.places[path] = value, place
        elif place is not None and (is_dense(value) or (is_plain(value) and bytes_in(value) <= SMALL_BYTES)):
            self.values[path] = place
        elif isinstance(value, (FunctionType, MethodType, functools.partial)):
            self.visit_function(path, value, depth)
        elif type(value) is tuple or isinstance(value, (list, set, deque, dict)):
            self.visit_entries(path, value, depth)
        elif isinstance(value, (Tensor, np.ndarray, ModuleType, type)):
            return
        elif is_followed_kind(type(value)):  # type: ignore[arg-type]  # a class is hashable
            self.visit_object(path, value, depth)
        elif not callable(value):
            self.others[path] = value

    def visit_entries(self, path: str, container: Any, depth: int) -> None:
        """Follow the entries of a container that is not plain."""
        if len(container) > MOST_ENTRIES:
            return
        pairs = list(container.items() if isinstance(container, dict) else enumerate(container))
        for number, (key, value) in enumerate(pairs):
            name = key if isinstance(key, (str, int)) else number
            place = (container, key) if isinstance(container, (dict, list)) else None
            self.visit(f"{path}[{name}]", value, place, depth + 1)

    def visit_function(self, path: str, function: Any, depth: int) -> None:
        """Follow a function's closure, defaults and arguments that are bound to it, and the globals it names."""
        if isinstance(function, functools.partial):
            for name, value in (("func", function.func), ("args", function.args), ("keywords", function.keywords)):
                self.visit(f"{path}.{name}", value, None, depth + 1)
            return
        if isinstance(function, MethodType):
            self.visit(path, function.__self__, None, depth + 1)
            function = function.__func__
        if not isinstance(function, FunctionType):
            return
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                self.visit(f"{path}.{name}", cell.cell_contents, (cell, "cell_contents"), depth + 1)
            except ValueError:  # it is empty yet
                continue
        for name in ("__defaults__", "__dict__"):
            self.visit(f"{path}.{name}", getattr(function, name), (function, name), depth + 1)
        if is_followed(function):
            root = path.partition(".")[0]
            for name in globals_in(function.__code__):
                if name in function.__globals__ and name[:2] != "__":
                    place = (function.__globals__, name)
                    self.visit(f"{root}.<{function.__module__}>.{name}", place[0][name], place, depth + 1)

    def visit_object(self, path: str, value: Any, depth: int) -> None:
        """Follow an object's attributes and those of its class, or note how it keeps a state of its own."""
        is_module = isinstance(value, nn.Module)
        for getter, setter in () if is_module else OWN_STATES:
            if callable(getattr(type(value), getter, None)) and callable(getattr(type(value), setter, None)):
                self.stateful[path] = getattr(value, getter), getattr(value, setter)
                return
        attributes = getattr(value, "__dict__", {})
        self.owners[path] = attributes
        for name, held in list(attributes.items()):
            if is_module and name == "_modules":
                for child, module in held.items():
                    self.visit(f"{path}.{child}", module, None, depth + 1)
            elif is_module and name in MODULE_HOOKS:  # their keys count all hooks of a process
                for number, hook in enumerate(held.values()):
                    self.visit(f"{path}.{name}[{number}]", hook, None, depth + 1)
            elif not (is_module and name in MODULE_OWN) and not (isinstance(value, DataLoader) and name[0] == "_"):
                self.visit(f"{path}.{name}", held, (attributes, name), depth + 1)
        slots, kinds = slots_and_bases(type(value))  # type: ignore[arg-type]
        for name in slots:
            if hasattr(value, name):
                self.visit(f"{path}.{name}", getattr(value, name), (value, name), depth + 1)
        root = path.partition(".")[0]
        for kind in kinds:
            if id(kind) in self.seen:
                continue
            self.seen.add(id(kind))
            for name, held in list(vars(kind).items()):
                inside = getattr(held, "__func__", getattr(held, "fget", held))
                if isinstance(inside, FunctionType):
                    self.visit_function(f"{root}.<{kind.__qualname__}>.{name}", inside, depth + 1)
                elif isinstance(held, GENERATORS) or (name[:2] != "__" and is_plain(held)):
                    self.visit(f"{root}.<{kind.__qualname__}>.{name}", held, (kind, name), depth + 1)


@functools.cache
def slots_and_bases(kind: type) -> tuple[list[str], list[type]]:
    """Return the slots of a class, and the classes that it is made of and whose attributes are followed."""
    slots = [name for each in kind.__mro__ for name in getattr(each, "__slots__", ()) if name[:2] != "__"]
    return slots, [each for each in kind.__mro__ if is_followed(each) and not each.__module__.startswith("torch.")]


@functools.cache
def is_followed_kind(kind: type) -> bool:
    """Tell whether the attributes of objects of a class are followed."""
    return is_followed(kind) and not issubclass(kind, (tuple, Enum))


def is_followed(value: Any) -> bool:
    """Tell whether a class or function is the user's own, or torch's and may hold something of the user's."""
    name = str(getattr(value, "__module__", None) or "")
    return name.partition(".")[0] not in FOREIGN or f"{name}.".startswith(FOLLOWED)


@functools.cache
def globals_in(code: CodeType) -> tuple[str, ...]:
    """Return the names of the globals in a function's code, and in that of functions inside it."""
    named = (each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "STORE_GLOBAL"))
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return (*dict.fromkeys(named), *(name for each in inner for name in globals_in(each)))


def is_dense(value: Any) -> bool:
    """Tell whether a value is a tensor that a checkpoint can hold, and no parameter."""
    return type(value) is Tensor and value.layout is torch.strided and value.dtype in DTYPES and not value.is_meta


def is_plain(value: Any, depth: int = 0) -> bool:
    """Tell whether a value consists of numbers, text, small arrays and tensors, in containers or not."""
    kind = type(value)
    if kind in SCALARS:
        return True
    if kind is Tensor:
        return is_dense(value) and value.nbytes <= SMALL_BYTES
    if isinstance(value, (np.ndarray, np.generic)):
        return (
            value.dtype.kind in "biuf" and value.dtype.isnative and value.itemsize <= 8 and value.nbytes <= SMALL_BYTES
        )
    if (
        kind not in (*SEQUENCES, *DICTS, torch.Size)
        or len(value) > MOST_ENTRIES
        or depth > 4
        or (depth and kind is set)
    ):
        return False
    entries = value.values() if isinstance(value, dict) else value
    return all(is_plain(each, depth + 1) for each in entries) and (
        not isinstance(value, dict) or all(type(key) in SCALARS for key in value)
    )


# ── reading, comparing, writing ──────────────────────────────────────────────────────────────────────────────


def read_place(place: Place) -> Any:
    """Return the value at a place."""
    owner, key = place
    return owner[key] if isinstance(owner, (dict, list)) else getattr(owner, key)


def write_place(place: Place, value: Any) -> None:
    """Set the value at a place: in the container or tensor that is there, where it is of the same kind."""
    (owner, key), now = place, read_place(place)
    if type(now) is Tensor and isinstance(value, Tensor):
        if (now.shape, now.dtype) == (value.shape, value.dtype) and not now.requires_grad:
            now.copy_(value)
            return
        value = value.to(now.device)
    if (isinstance(now, dict) and isinstance(value, dict)) or isinstance(now, set):
        now.clear()
        now.update(value)
    elif isinstance(now, (list, deque)) and isinstance(value, (list, deque)):
        now.clear()
        now.extend(value)
    elif isinstance(owner, (dict, list)):
        owner[key] = value
    else:
        setattr(owner, key, value)


def copied(value: Any) -> Any:
    """Return a copy of a plain value; of a large tensor, what tells whether it changed."""
    if isinstance(value, Tensor):
        return value.detach().clone() if value.nbytes <= SMALL_BYTES else version_of(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        pairs = {key: copied(each) for key, each in value.items()}
        return pairs if type(value) is dict else OrderedDict(pairs)
    if isinstance(value, SEQUENCES):
        return type(value)(map(copied, value))
    return value


@dataclass(frozen=True)
class Version:
    """Which tensor it is, and how often it was changed in place."""

    identity: int
    changes: int


def version_of(tensor: Tensor) -> Version:
    """Return what tells a tensor from others and from itself changed."""
    return Version(id(tensor), tensor._version)


def are_equal(one: Any, other: Any) -> bool:
    """Tell whether two values are equal in kind and in every bit."""
    if one is other:
        return True
    if isinstance(one, Version) and isinstance(other, Tensor):
        return one == version_of(other)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other.detach())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(are_equal(one[key], other[key]) for key in one)
    if type(one) is not type(other):
        return False
    if isinstance(one, SEQUENCES) and not isinstance(one, set):
        return len(one) == len(other) and all(map(are_equal, one, other))
    try:
        return bool(one == other)
    except Exception:  # whatever a class of the user's raises
        return one is other


def bytes_in(value: Any) -> int:
    """Return about how many bytes a plain value takes."""
    if isinstance(value, (dict, *SEQUENCES)):
        return sum(map(bytes_in, value.values() if isinstance(value, dict) else value))
    return value.nbytes if isinstance(value, (Tensor, np.ndarray)) else 8


# ── while a run trains ───────────────────────────────────────────────────────────────────────────────────────


class Held:
    """The state that objects held when this process began to train with them, and what has changed since.

    `roots` are the objects by name. `unkept` are the paths of what changes, or may, and cannot be restored.
    """

    def __init__(self, roots: Mapping[str, Any] | None = None) -> None:
        self.roots = dict(roots or {})
        walk = Walk(self.roots)
        self.states: dict[str, Any] = {path: state_of(each) for path, each in walk.generators.items()}
        self.begun: dict[str, Any] = {path: copied(read_place(place)) for path, place in walk.values.items()}
        self.others, self.unkept = walk.others, list(walk.sources)
        self.owners = walk.owners.keys()
        self.noted: dict[str, Any] = {}
        self.late: dict[str, Any] = {}  # of objects that were made since: these are not kept, so they must not change

    def changes(self, *names: str) -> dict[str, Any]:
        """Return what is not as it was at the beginning, by path, of the roots of these names or of all; copied."""
        found: dict[str, Any] = {}
        if names and not self.roots.keys() & names:
            return found
        walk = Walk(self.roots)  # of all: something may be reached from two of them
        for path, generator in walk.generators.items():
            if path not in self.states:  # it was made since
                self.unkept.append(path)
            elif not are_equal(self.states[path], state := state_of(generator)):
                found[path] = state
        made = tuple(f"{path}." for path in walk.owners if path not in self.owners)
        for path, place in walk.values.items():
            value = read_place(place)
            known = self.late if path.startswith(made) else self.begun
            if path in known and are_equal(known[path], value):
                continue
            if known is self.late and path not in known:
                self.late[path] = copied(value)
            elif known is self.late or bytes_in(value) > MOST_BYTES:
                self.unkept.append(path)
            elif isinstance(value, Tensor):
                found[path] = value.detach().clone()
            else:
                found[path] = sorted(value, key=repr) if isinstance(value, set) else copied(value)
        for path, (get, _) in walk.stateful.items():
            if is_plain(state := get()):
                found[path] = copied(state)
            else:
                self.unkept.append(path)
        self.unkept += [
            path for path, value in walk.others.items() if not are_equal(self.others.setdefault(path, value), value)
        ]
        self.unkept = list(dict.fromkeys([*self.unkept, *walk.sources]))
        return {path: value for path, value in found.items() if is_below(path, names)}

    def note(self, *names: str) -> bool:
        """Note the changes of these roots in `noted`; return whether they are others than those noted before."""
        before, self.noted = self.noted, self.changes(*names)
        return not are_equal(before, self.noted)

    def restore(self, saved: Mapping[str, Any], *names: str) -> None:
        """Make all as it was at the beginning but for what `saved` holds, of the roots of these names or of all."""
        walk, left = Walk(self.roots), dict(saved)
        for path, generator in walk.generators.items():
            state, place = left.pop(path, self.states.get(path)), walk.places[path]
            if state is not None and is_below(path, names):
                set_state(generator, state)
            elif place is not None and path in self.begun and is_below(path, names):  # it was made since
                write_place(place, copied(self.begun[path]))
        for path, place in walk.values.items():
            value = left.pop(path, self.begun.get(path, MISSING))
            if value is MISSING or not is_below(path, names) or are_equal(value, read_place(place)):
                continue
            if isinstance(value, Version):
                self.unkept.append(path)
            else:
                write_place(place, copied(value))
        for path, (_, set_own) in walk.stateful.items():
            if path in left:
                set_own(left.pop(path))
        for path, value in left.items():  # attributes that are set later than this
            owner, _, name = path.rpartition(".")
            if owner in walk.owners and name.isidentifier():
                walk.owners[owner][name] = value
            else:
                self.unkept.append(path)


def is_below(path: str, names: tuple[str, ...]) -> bool:
    """Tell whether a path is below a root of one of these names; of any, where none is given."""
    return not names or path.replace("[", ".").partition(".")[0] in names
