"""A simulated disk that keeps only what a POSIX file system has promised.

What is written to a file is durable once the file is synced; that a name is there, means another file or is gone, once
its folder is synced. All that is not durable may have happened or not when the power goes, in any order, each file and
each name by itself: writes dropped or torn at the disk's blocks, a length without its data, a name without its file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.log import Operation

BLOCKS = (512, 4096)  # bytes that a disk writes at once: a sector, a page
State = dict[str, bytes | None]  # what is on the disk after a power cut: content by path, None for a folder


class File:
    """A file's durable content, and its content after each change since."""

    def __init__(self) -> None:
        self.contents = [b""]  # durable, then after every change that is not

    def change(self, content: bytes) -> None:
        """Have other content, which is not durable."""
        self.contents.append(content)

    def sync(self) -> None:
        """Make the content durable."""
        self.contents = self.contents[-1:]

    def write(self, offset: int, data: bytes) -> None:
        """Have other bytes from `offset` on."""
        content = self.contents[-1].ljust(offset, b"\0")
        self.change(content[:offset] + data + content[offset + len(data) :])

    def truncate(self, length: int) -> None:
        """Have another length."""
        self.change(self.contents[-1][:length].ljust(length, b"\0"))


class Folder:
    """What each name in a folder means durably, and what it has meant since: (when, what), the durable meaning first."""

    def __init__(self) -> None:
        self.names: dict[str, list[tuple[int, Node | None]]] = {}

    def now(self, name: str) -> Node | None:
        """Return what a name means to a program that runs."""
        return self.names[name][-1][1] if name in self.names else None

    def set(self, name: str, time: int, node: Node | None) -> None:
        """Let a name mean something else, or nothing, which is not durable."""
        self.names.setdefault(name, [(-1, None)]).append((time, node))

    def sync(self) -> None:
        """Make the names durable."""
        self.names = {name: [(-1, meanings[-1][1])] for name, meanings in self.names.items() if meanings[-1][1]}


Node = File | Folder


class SimulatedDisk:
    """The disk as far as the log was applied to it."""

    def __init__(self) -> None:
        self.root = Folder()
        self.opened: dict[int, File] = {}
        self.time = 0

    def apply(self, operation: Operation) -> None:
        """Do one operation of a log."""
        self.time += 1
        kind, file = operation.kind, self.opened.get(operation.file)
        if kind == "open":
            self.open(operation)
        elif kind == "write":
            file.write(operation.offset, operation.data)
        elif kind == "truncate":
            file.truncate(operation.offset)
        elif kind == "sync":
            file.sync()
        elif kind == "make-folder":
            self.set(operation.path, Folder())
        elif kind == "sync-folder":
            self.find(operation.path).sync()
        elif kind == "delete":
            self.set(operation.path, None)
        elif kind == "rename":
            node = self.find(operation.path)
            self.set(operation.path, None)
            self.set(operation.target, node)

    def open(self, operation: Operation) -> None:
        """Open a file; a new one gets a name that is not durable yet."""
        node = self.find(operation.path)
        if node is None:
            node = File()
            self.set(operation.path, node)
        elif operation.target == "wb":
            node.truncate(0)
        self.opened[operation.file] = node

    def find(self, path: str) -> Node | None:
        """Return what the path means to a program that runs."""
        node: Node | None = self.root
        for name in filter(None, path.split("/")):
            node = node.now(name) if isinstance(node, Folder) else None
        return node

    def set(self, path: str, node: Node | None) -> None:
        """Let a path mean something else from now on."""
        parent, _, name = path.rpartition("/")
        self.find(parent).set(name, self.time, node)

    def view(self, path: str = "") -> State:
        """Return what a running program sees below the path."""
        node = self.find(path)
        return {} if node is None else dict(walk(node, "", kept_meaning, kept_content))

    def state(self, choose: Choice) -> State:
        """Return what is on the disk after a power cut, as `choose` decides about all that is not durable."""
        return dict(walk(self.root, "", choose.meaning, choose.content))


Meaning = Callable[[list[tuple[int, Node | None]]], Node | None]
Content = Callable[[File], bytes]


def walk(folder: Node, path: str, meaning: Meaning, content: Content) -> Iterator[tuple[str, bytes | None]]:
    """Give path and content of everything in a folder; None for the folders in it."""
    if isinstance(folder, File):
        yield path, content(folder)
        return
    for name, meanings in folder.names.items():
        node, inner = meaning(meanings), f"{path}/{name}" if path else name
        if isinstance(node, File):
            yield inner, content(node)
        elif node is not None:
            yield inner, None
            yield from walk(node, inner, meaning, content)


def kept_meaning(meanings: list[tuple[int, Node | None]]) -> Node | None:
    """Let every name mean what it meant last."""
    return meanings[-1][1]


def lost_meaning(meanings: list[tuple[int, Node | None]]) -> Node | None:
    """Let every name mean what is durable."""
    return meanings[0][1]


def kept_content(file: File) -> bytes:
    """Keep every write."""
    return file.contents[-1]


def lost_content(file: File) -> bytes:
    """Keep what is durable."""
    return file.contents[0]


def empty_content(file: File) -> bytes:
    """Keep the length that a file had last, and none of the data that is not durable."""
    durable, last = file.contents[0], file.contents[-1]
    return durable[: len(last)].ljust(len(last), b"\0")


class Choice:
    """Decides what becomes of the names and of the data that are not durable; a file is the same under both its names."""

    def __init__(self, name: str, meaning: Meaning, content: Content) -> None:
        self.name, self.meaning, self.chosen = name, meaning, content
        self.contents: dict[int, bytes] = {}

    def content(self, file: File) -> bytes:
        """Return what becomes of a file."""
        if id(file) not in self.contents:
            self.contents[id(file)] = self.chosen(file)
        return self.contents[id(file)]


def fixed_choices() -> list[Choice]:
    """Return the states that every moment has: all lost, all kept, and names and data without each other."""
    return [
        Choice("all that is not synced lost", lost_meaning, lost_content),
        Choice("everything kept", kept_meaning, kept_content),
        Choice("names kept, data lost", kept_meaning, lost_content),
        Choice("names kept, data zeros", kept_meaning, empty_content),
        Choice("data kept, names lost", lost_meaning, kept_content),
    ]


def random_choice(random: random.Random, time: int) -> Choice:
    """Return a choice that decides about each name and each file by chance."""
    share, cut = random.choice((0.1, 0.5, 0.9)), random.choice((None, random.randrange(time + 1)))

    def meaning(meanings: list[tuple[int, Node | None]]) -> Node | None:
        if cut is not None:  # as a journal has it: what came before is there, what came after is not
            return [node for when, node in meanings if when <= cut][-1]
        return meanings[-1][1] if random.random() < share else random.choice(meanings)[1]

    def content(file: File) -> bytes:
        if len(file.contents) == 1:
            return file.contents[0]
        return random.choice((lost_content, kept_content, empty_content, torn, scattered, holed))(file)

    def torn(file: File) -> bytes:
        """Keep the changes up to one, and that one up to the end of a block."""
        number, block = random.randrange(1, len(file.contents)), random.choice(BLOCKS)
        before, after = file.contents[number - 1], file.contents[number]
        end = random.randrange(0, len(after) // block + 1) * block
        return after[:end] + before[end:]

    def holed(file: File) -> bytes:
        """Keep everything but one block: the damage that is the hardest to see."""
        block, before, after = random.choice(BLOCKS), file.contents[0], file.contents[-1]
        start = random.randrange(0, len(after) // block + 1) * block
        end = min(start + block, len(after))
        return after[:start] + before[start:end].ljust(end - start, b"\0") + after[end:]

    def scattered(file: File) -> bytes:
        """Keep each block or not, in whatever length the file has had; blocks that were never written are zeros."""
        block, length = random.choice(BLOCKS), len(random.choice(file.contents))
        versions = [content.ljust(length, b"\0") for content in (file.contents[0], *file.contents[-3:])]
        return b"".join(random.choice(versions)[at : min(at + block, length)] for at in range(0, length, block))

    return Choice(
        f"by chance, {share:.0%} of the names kept" if cut is None else "by chance, names in order", meaning, content
    )


def write_state(folder: Path, state: State) -> None:
    """Write a state into an empty folder."""
    for path, content in state.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(content)
