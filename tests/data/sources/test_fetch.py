"""Obtaining files: real local servers, real processes, real apt; a declaration says where to look."""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rushlight.data.sources.named import debian, download
from rushlight.data.sources.named.cache import SourceRefusal, cache_folder, find_faults
from rushlight.data.sources.named.catalog import DATASETS, Content, NamedDataset, RemoteFile
from rushlight.data.sources.named.fetch import fetch_files
from rushlight.errors import FetchError, StorageError

FASHION_MNIST = DATASETS["fashion-mnist"]
BODY = bytes(hashlib.shake_256(b"body").digest(300_000))  # does not compress, so a torn gzip is really torn


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ANSWER_S", 2.0)
    monkeypatch.setattr(download, "READ_S", 0.4)
    monkeypatch.setattr(debian, "PACKAGE_S", 120.0)


PACKED = gzip.compress(BODY, mtime=0)


def declare(*sources: str, content_digest: bool = True) -> NamedDataset:
    content = Content("pieces", len(BODY), sha256(BODY) if content_digest else None)
    file = RemoteFile("pieces.gz", len(PACKED), sha256(PACKED), (content,))
    return replace(FASHION_MNIST, name="pieces", title="Pieces", files=(file,), sources=sources)


@dataclass
class Served:
    """What a local server offers, how it misbehaves, and what it was asked."""

    content: bytes = PACKED
    breaks_after: int | None = None  # bytes sent per answer before the connection is closed
    stalls_after: int | None = None
    statuses: list[int] = field(default_factory=list)  # answered first, one each
    tells_length: bool = True
    slow_s: float = 0.0  # pause before each piece
    agents: list[str | None] = field(default_factory=list)  # one for each request
    released: threading.Event = field(default_factory=threading.Event)


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, served: Served, *arguments: object) -> None:
        self.served = served
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        served = self.served
        served.agents.append(self.headers["User-Agent"])
        if self.path != "/files/pieces.gz":
            self.send_error(404)
            return
        if served.statuses:
            self.send_error(served.statuses.pop(0))
            return
        body = served.content
        self.send_response(200)
        if served.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if served.stalls_after is not None and len(body) > served.stalls_after:
            self.wfile.write(body[: served.stalls_after])
            self.wfile.flush()
            served.released.wait(10)
            return
        for first in range(0, len(body[: served.breaks_after]), 16_384):
            time.sleep(served.slow_s)
            self.wfile.write(body[: served.breaks_after][first : first + 16_384])

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that was killed
            super().handle()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Served], str]]:
    running: list[tuple[http.server.ThreadingHTTPServer, threading.Thread, Served]] = []

    def start(served: Served) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, served))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((server, thread, served))
        return f"http://127.0.0.1:{server.server_port}/files/"

    yield start
    for server, thread, served in running:
        served.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


Serve = Callable[[Served], str]


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def fetch(dataset: NamedDataset, cache: Path) -> bytes:
    folder, _ = fetch_files(dataset, cache=cache)
    return (folder / dataset.files[0].contents[0].name).read_bytes()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_mirror_is_downloaded_unpacked_and_not_asked_again(
    tmp_path: Path, serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    served = Served()
    dataset = declare(serve(served))
    seen: list[tuple[str, int, int | None]] = []
    fetch_files(dataset, cache=tmp_path, progress=lambda *step: seen.append(step))
    assert fetch(dataset, tmp_path) == BODY
    assert served.agents == ["rushlight"]
    assert len(seen) > 1
    assert seen[-1] == ("pieces.gz", len(PACKED), len(PACKED))
    assert names_in(tmp_path / "pieces") == {"pieces", "files.json", "lock"}
    assert capfd.readouterr() == ("", "")


def test_a_connection_that_breaks_is_tried_again_and_then_the_next_mirror_serves(tmp_path: Path, serve: Serve) -> None:
    broken, whole = Served(breaks_after=50_000), Served()
    dataset = declare(serve(broken), serve(whole))
    assert fetch(dataset, tmp_path) == BODY
    assert (len(broken.agents), len(whole.agents)) == (2, 1)


def test_a_server_that_always_breaks_is_given_up(tmp_path: Path, serve: Serve) -> None:
    with pytest.raises(FetchError, match=r"IncompleteRead\(50000 bytes read, .* more expected\)"):
        fetch(declare(serve(Served(breaks_after=50_000))), tmp_path)
    assert names_in(tmp_path / "pieces") == {"lock"}


def test_a_stalled_server_is_left_and_nothing_of_its_file_kept(tmp_path: Path, serve: Serve) -> None:
    started = time.monotonic()
    with pytest.raises(FetchError, match="timed out"):
        fetch(declare(serve(Served(stalls_after=70_000))), tmp_path)
    assert time.monotonic() - started < 5
    assert names_in(tmp_path / "pieces") == {"lock"}


def test_a_passing_failure_is_tried_again(tmp_path: Path, serve: Serve) -> None:
    passing, lasting = Served(statuses=[503]), Served(statuses=[404] * 9)
    assert fetch(declare(serve(lasting), serve(passing)), tmp_path) == BODY
    assert len(passing.agents) == 2


def test_wrong_content_of_the_right_size_never_enters_the_cache(tmp_path: Path, serve: Serve) -> None:
    wrong = bytes([PACKED[0] ^ 1]) + PACKED[1:]
    dataset = declare(serve(Served(content=wrong)), content_digest=False)
    with pytest.raises(
        FetchError, match=f"does not match the known hash: expected .*{sha256(PACKED)} but got {sha256(wrong)}"
    ):
        fetch(dataset, tmp_path)
    assert names_in(tmp_path / "pieces") == {"lock"}


def test_content_of_another_size_is_refused_before_it_is_fetched(tmp_path: Path, serve: Serve) -> None:
    page = b"<html>Please log in to this network</html>"
    served = Served(content=page)
    with pytest.raises(FetchError, match=f"offers {len(page)} bytes instead of"):
        fetch(declare(serve(served)), tmp_path)
    assert len(served.agents) == 1
    assert names_in(tmp_path / "pieces") == {"lock"}


def test_a_server_that_sends_without_end_is_stopped(tmp_path: Path, serve: Serve) -> None:
    served = Served(content=bytes(50_000_000), tells_length=False)
    with pytest.raises(FetchError, match="sends more than the"):
        fetch(declare(serve(served)), tmp_path)
    assert names_in(tmp_path / "pieces") == {"lock"}


def test_mirrors_that_cannot_be_reached_are_left_quickly_and_the_next_serves(tmp_path: Path, serve: Serve) -> None:
    started = time.monotonic()
    dataset = declare(closed_port(), "http://no-such-host.invalid/", serve(Served()))
    assert fetch(dataset, tmp_path) == BODY
    assert time.monotonic() - started < 10


def test_a_network_that_swallows_everything_is_given_up_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ANSWER_S", 0.3)
    with socket.socket() as silent:  # accepts connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(FetchError, match=r"no answer in 0\.3 seconds"):
            fetch(declare(f"http://127.0.0.1:{silent.getsockname()[1]}/"), tmp_path)
        assert time.monotonic() - started < 3
        wait_for(lambda: not any(thread.name == "rushlight-download" for thread in threading.enumerate()))
    assert names_in(tmp_path / "pieces") == {"lock"}  # the thread that was left behind wrote nothing


def test_when_all_fail_the_error_lists_each_source_and_the_ways_out(tmp_path: Path, serve: Serve) -> None:
    gone = serve(Served(statuses=[404] * 2))
    nowhere = tmp_path / "nowhere"
    pickled = tmp_path / "cifar-10-batches-py"
    pickled.mkdir()
    with pytest.raises(FetchError) as caught:
        fetch(declare(str(nowhere), f"pickle:{pickled}", gone), tmp_path / "cache")
    folder = tmp_path / "cache" / "pieces"
    assert caught.value.problem.splitlines() == [
        "Pieces could not be obtained from any of 4 sources. Tried, in this order:",
        f"  1. the cache {folder}: pieces.gz is not there",
        f"  2. a copy in {nowhere}: there is no such folder",
        f"  3. a copy in {pickled}: this copy is pickled, and reading a pickle can run any code in it: not read",
        f"  4. {gone}: 404 Client Error: Not Found for url: {gone}pieces.gz",
    ]
    for way_out in (
        str(folder),
        "pieces.gz",
        FASHION_MNIST.homepage,
        "RUSHLIGHT_DATA",
        "HTTPS_PROXY",
        "digits",
    ):
        assert way_out in caught.value.advice


def test_a_file_put_into_the_cache_by_hand_is_checked_and_used(tmp_path: Path) -> None:
    (tmp_path / "pieces").mkdir()
    by_hand = tmp_path / "pieces" / "pieces.gz"
    by_hand.write_bytes(PACKED[:-1])
    with pytest.raises(FetchError, match=r"pieces\.gz is not the published file"):
        fetch(declare(content_digest=False), tmp_path)
    by_hand.write_bytes(PACKED)
    assert fetch(declare(content_digest=False), tmp_path) == BODY


@pytest.mark.parametrize("is_packed", [True, False])
def test_torchvisions_copy_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_packed: bool) -> None:
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / ("pieces.gz" if is_packed else "pieces")).write_bytes(PACKED if is_packed else BODY)
    monkeypatch.chdir(tmp_path)
    assert "data/FashionMNIST/raw" in FASHION_MNIST.sources
    dataset = declare(*FASHION_MNIST.sources[:3], closed_port())
    assert fetch(dataset, tmp_path / "缓存 with spaces") == BODY


def test_an_unpacked_copy_that_nothing_vouches_for_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "pieces").write_bytes(BODY)
    with pytest.raises(FetchError, match="pieces cannot be checked"):
        fetch(declare(str(tmp_path / "copy"), content_digest=False), tmp_path / "cache")


def test_a_copy_compressed_anew_is_known_by_its_content(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "pieces.gz").write_bytes(gzip.compress(BODY, compresslevel=1, mtime=7))
    assert fetch(declare(str(copy)), tmp_path / "cache") == BODY
    (copy / "pieces.gz").write_bytes(gzip.compress(BODY[::-1]))
    with pytest.raises(FetchError, match="its content is not the published one"):
        fetch(declare(str(copy)), tmp_path / "other")


def test_a_file_that_unpacks_to_too_much_is_stopped(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "pieces.gz").write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(FetchError, match="longer than the 300,000 bytes"):
        fetch(declare(str(copy)), tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache" / "pieces").iterdir()} == {"lock"}


@pytest.mark.parametrize("damage", [BODY[:-1], bytes(len(BODY)), b""])
def test_a_damaged_cache_file_is_named_set_aside_and_fetched_again(tmp_path: Path, serve: Serve, damage: bytes) -> None:
    served = Served()
    dataset = declare(serve(served), content_digest=False)
    assert fetch(dataset, tmp_path) == BODY
    cached = tmp_path / "pieces" / "pieces"
    cached.write_bytes(damage)
    _, notes = fetch_files(dataset, cache=tmp_path)
    assert cached.read_bytes() == BODY
    assert cached.with_name("pieces.damaged").read_bytes() == damage
    assert str(cached) in notes[1]
    assert len(served.agents) == 2
    assert len(fetch_files(dataset, cache=tmp_path)[1]) == 1


def test_a_damaged_cache_file_that_cannot_be_fetched_again_is_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "pieces").write_bytes(b"short")
    with pytest.raises(FetchError, match=r"was damaged \(it has 5 bytes instead of 300,000\)"):
        fetch(declare(), tmp_path)


def test_a_damaged_record_costs_a_fetch_and_nothing_else(tmp_path: Path, serve: Serve) -> None:
    served = Served()
    dataset = declare(serve(served), content_digest=False)
    fetch(dataset, tmp_path)
    (tmp_path / "pieces" / "files.json").write_text('{"pieces": {"sha', "utf-8")
    assert fetch(dataset, tmp_path) == BODY
    assert json.loads((tmp_path / "pieces" / "files.json").read_text("utf-8"))["pieces"]["bytes"] == len(BODY)
    assert len(served.agents) == 2


def test_a_whole_cache_is_used_without_writing_to_it(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "pieces.gz").write_bytes(PACKED)
    dataset = declare(str(copy))
    fetch(dataset, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pieces").iterdir()}
    (tmp_path / "pieces" / "lock").unlink()
    assert fetch(dataset, tmp_path) == BODY
    assert not (tmp_path / "pieces" / "lock").exists()
    assert all(path.stat().st_mtime_ns == was for path, was in before.items() if path.name != "lock")


def test_a_full_disk_while_downloading_says_how_to_use_another(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(meter: Any, count: int) -> None:  # pooch writes the file itself: this stands for its write
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.DownloadBar, "update", update)
    with pytest.raises(StorageError, match="no space left") as caught:
        fetch(declare(serve(Served())), tmp_path)
    assert "RUSHLIGHT_DATA" in caught.value.advice


def test_a_cache_that_cannot_be_made_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        fetch(declare(), tmp_path / "file")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUSHLIGHT_DATA", str(tmp_path / "my data"))
    assert cache_folder() == tmp_path / "my data"
    monkeypatch.setenv("RUSHLIGHT_DATA", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.setenv("RUSHLIGHT_DATA", "  ")
    assert cache_folder().parent.name == "rushlight"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a file that even root cannot read")
def test_a_copy_that_cannot_be_read_is_passed_over(tmp_path: Path, serve: Serve) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "pieces.gz").symlink_to("/proc/self/mem")
    dataset = declare(str(copy))
    with pytest.raises(FetchError, match=re.escape(f"a copy in {copy}: ") + ".*(Input/output error|Errno)"):
        fetch(dataset, tmp_path / "cache")
    assert fetch(replace(dataset, sources=(*dataset.sources, serve(Served()))), tmp_path / "cache") == BODY


# ── archives ─────────────────────────────────────────────────────────────────────────────────────────────


def pack_tar(members: dict[str, bytes | str]) -> bytes:
    """Return a .tar.gz; a member given as text is a symbolic link to it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def declare_tar(archive: bytes, place: Path) -> NamedDataset:
    contents = (
        Content("train.bin", 6, member="set/train.bin"),
        Content("test.bin", 4, member="set/test.bin"),
    )
    place.mkdir()
    (place / "set.tar.gz").write_bytes(archive)
    file = RemoteFile("set.tar.gz", len(archive), sha256(archive), contents)
    return replace(DATASETS["cifar10"], name="set", files=(file,), sources=(str(place),))


def test_an_archive_gives_its_declared_members_and_nothing_else(tmp_path: Path) -> None:
    archive = pack_tar({"../escaped": b"no", "set/train.bin": b"sixsix", "set/readme": b"no", "set/test.bin": b"four"})
    folder, _ = fetch_files(declare_tar(archive, tmp_path / "copy"), cache=tmp_path / "cache")
    assert (folder / "train.bin").read_bytes() == b"sixsix"
    assert names_in(folder) == {"train.bin", "test.bin", "files.json", "lock"}
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"set/train.bin": b"sixsix"}, "lacks set/test.bin"),
        ({"set/train.bin": b"sixsix", "set/test.bin": "/etc/passwd"}, "lacks set/test.bin"),
        ({"set/train.bin": b"sixsix", "set/test.bin": b"five5"}, "longer than the 4 bytes"),
    ],
)
def test_an_archive_with_other_members_is_refused(tmp_path: Path, members: dict[str, bytes | str], said: str) -> None:
    with pytest.raises(FetchError, match=said):
        fetch_files(declare_tar(pack_tar(members), tmp_path / "copy"), cache=tmp_path / "cache")


def test_a_torn_archive_is_refused(tmp_path: Path) -> None:
    whole = pack_tar({"set/readme": BODY, "set/train.bin": b"sixsix", "set/test.bin": b"four"})
    dataset = declare_tar(whole[: len(whole) // 2], tmp_path / "copy")
    with pytest.raises(FetchError, match=r"set\.tar\.gz: it is damaged"):
        fetch_files(dataset, cache=tmp_path / "cache")


# ── several processes, killed processes ──────────────────────────────────────────────────────────────────

FETCHER = """
import sys
from dataclasses import replace
from pathlib import Path
from rushlight.data.sources.named.catalog import DATASETS, Content, RemoteFile
from rushlight.data.sources.named.fetch import fetch_files
url, cache, size, packed_digest, content_size, content_digest = sys.argv[1:]
file = RemoteFile("pieces.gz", int(size), packed_digest, (Content("pieces", int(content_size), content_digest),))
dataset = replace(DATASETS["mnist"], name="pieces", files=(file,), sources=(url,))
fetch_files(dataset, cache=Path(cache))
"""


def start_fetcher(mirror: str, cache: Path) -> subprocess.Popen[str]:
    arguments = [mirror, str(cache), str(len(PACKED)), sha256(PACKED), str(len(BODY)), sha256(BODY)]
    return subprocess.Popen(
        [sys.executable, "-c", FETCHER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def wait_for(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def test_two_processes_fetch_once(tmp_path: Path, serve: Serve) -> None:
    served = Served(slow_s=0.02)
    mirror = serve(served)
    both = [start_fetcher(mirror, tmp_path) for _ in range(2)]
    for process in both:
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
    assert len(served.agents) == 1
    assert (tmp_path / "pieces" / "pieces").read_bytes() == BODY


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_download_that_is_killed_ends_at_once_and_leaves_nothing_that_looks_whole(
    tmp_path: Path, serve: Serve, number: str
) -> None:
    served = Served(stalls_after=120_000)
    mirror = serve(served)
    process = start_fetcher(mirror, tmp_path)
    try:
        wait_for(lambda: len(served.agents) == 1)
        time.sleep(0.2)
        sent = time.monotonic()
    finally:
        process.send_signal(signal.Signals[number])
        process.communicate(timeout=20)
    assert time.monotonic() - sent < 3  # the connection would be given up after 10 seconds
    assert process.returncode != 0
    assert not (tmp_path / "pieces" / "pieces").exists()
    served.stalls_after = None
    assert fetch(declare(mirror), tmp_path) == BODY
    assert names_in(tmp_path / "pieces") == {"pieces", "files.json", "lock"}


def test_what_a_killed_process_left_unpublished_is_swept(tmp_path: Path, serve: Serve) -> None:
    folder = tmp_path / "pieces"
    (folder / "package.0123abcd.part" / "lists").mkdir(parents=True)
    (folder / "pieces.0123abcd.part").write_bytes(b"half")
    (folder / "pieces.gz.download").write_bytes(PACKED[:1000])  # an earlier release went on from there
    assert fetch(declare(serve(Served())), tmp_path) == BODY
    assert names_in(folder) == {"pieces", "files.json", "lock"}


def test_a_cache_that_an_earlier_release_filled_is_used_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    folder.mkdir()
    (folder / "pieces").write_bytes(BODY)
    record = {"bytes": len(BODY), "sha256": sha256(BODY), "source": "https://mirror.example/files/pieces.gz"}
    (folder / "files.json").write_text(json.dumps({"pieces": record}), "utf-8")
    found, notes = fetch_files(declare(content_digest=False), cache=tmp_path)
    assert notes == [f"Read from {found}, where it came from https://mirror.example/files/."]
    assert names_in(folder) == {"pieces", "files.json"}


# ── apt ──────────────────────────────────────────────────────────────────────────────────────────────────

needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None,
    reason="apt-get and dpkg-deb are not on this machine: it is neither Debian nor Ubuntu",
)
PACKAGE = "apt://dataset-fashion-mnist/usr/share/datasets/fashion-mnist"


@pytest.fixture(scope="module")
def debian_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST from the Debian package, or skip: its mirror gives no answer, or lacks the package."""
    cache = tmp_path_factory.mktemp("debian cache 缓存")
    try:
        fetch_files(replace(FASHION_MNIST, sources=(PACKAGE,)), cache=cache)
    except FetchError as error:
        if re.search("Could not resolve|Could not connect|Failed to fetch|Unable to locate|too long", str(error)):
            pytest.skip(f"this machine's Debian mirror gives no answer: {error.problem}")
        raise
    return cache


@needs_apt
def test_fashion_mnist_comes_from_the_debian_package(debian_answers: Path) -> None:
    assert find_faults(FASHION_MNIST, debian_answers / "fashion-mnist") == {}
    names = {path.name for path in (debian_answers / "fashion-mnist").iterdir()}
    contents = {content.name for file in FASHION_MNIST.files for content in file.contents}
    assert names == contents | {"files.json", "lock"}


@needs_apt
def test_a_package_that_does_not_exist_is_refused_with_apts_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "no sources"
    empty.mkdir()
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{empty}";\nDir::State::lists "{empty}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    with pytest.raises(FetchError, match="Unable to locate package no-such-package"):
        fetch(declare("apt://no-such-package/usr"), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_machine_without_apt_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="apt-get is not on this machine"):
        fetch(declare(PACKAGE), tmp_path / "cache")


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for apt-get")
def test_an_apt_that_hangs_is_stopped_with_its_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (programs / name).write_text(
            f"#!/bin/sh\necho 'E: waiting' >&2\n/bin/sleep 60 & echo $! > '{tmp_path}/pid'\nwait\n"
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(debian, "PACKAGE_S", 0.5)
    with pytest.raises(
        FetchError,
        match=r"package dataset-fashion-mnist: apt-get took too long and was stopped; it printed: E: waiting",
    ):
        fetch_files(declare(PACKAGE), cache=tmp_path / "cache")
    helper = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(helper), 5)


def is_running(process: int) -> bool:
    """Tell whether a process runs; one that ended and was not waited for does not."""
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_refusal_is_no_error_a_user_sees() -> None:
    assert not issubclass(SourceRefusal, OSError)  # `files` would turn it into a StorageError
