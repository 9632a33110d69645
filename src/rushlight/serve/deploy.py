"""Writes the files with which a model is served elsewhere: in a container, by systemd, behind nginx, on a cluster.

A file is a template of `deployments/`, filled in. Every field is quoted as its format wants, and none has a line break.
"""

from __future__ import annotations

import gzip
import io
import json
import platform
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.errors import UsageError, check_choice
from rushlight.serve.model import Model, find_model
from rushlight.serve.options import Settings
from rushlight.texts import UNSEEN, Note
from rushlight.version import __version__

IMAGE = {"Dockerfile": "Dockerfile"}
KINDS = {  # the files of each kind, and their templates
    "docker": IMAGE,
    "compose": {**IMAGE, "compose.yaml": "compose.yaml"},
    "systemd": {"SLUG@.service": "service"},
    "nginx": {"nginx.conf": "nginx.conf"},
    "k8s": {**IMAGE, "kubernetes.yaml": "kubernetes.yaml"},
    "kserve": {**IMAGE, "kserve.yaml": "kserve.yaml"},
    "ray": {"ray_app.py": "ray_app.py"},
}  # fmt: skip
NEEDED = (  # what a server that has a graph imports
    "numpy", "onnxruntime", "uvicorn", "httptools", "orjson", "pillow", "typer", "rich", "platformdirs",
    "safetensors", "filelock",
)  # fmt: skip
THREADS = 2  # where none were chosen: those of the machine that writes are not those of the one that serves
MEGABYTES = 256  # that a server holds, besides four times its model
MOST_OF_A_MODEL = 16 << 30  # bytes
INSIDE = ("", ".$(NAMESPACE)", ".$(NAMESPACE).svc", ".$(NAMESPACE).svc.cluster.local")  # of a Service, by DNS


def write_deployment(
    kind: str, folder: Path, given: str, runs: Path, reference: str | None, settings: Settings, language: str,
    tell: Callable[[Note], object], force: bool = False,
) -> tuple[str, list[Path]]:  # fmt: skip
    """Write the files of one kind into a folder, with the model, which is proven first; return its name and
    their paths.

    Raises:
        UsageError: there is no such kind; the model has no graph; a name holds a line break or another control; files are there
            already that `force` does not let be replaced.
        WeightsError: the model does not repeat its recorded examples.
    """
    check_choice("--write KIND", kind, tuple(KINDS))
    for field in (given, settings.name or "", str(folder), *settings.hosts):
        if UNSEEN.search(field) or (field in settings.hosts and not re.fullmatch(r"[\w.:-]+", field)):
            raise UsageError("deploy-field", field=field)
    if settings.workers != 1:
        raise UsageError("deploy-no-workers")
    if settings.device not in ("auto", "cpu"):
        raise UsageError("deploy-no-card", device=settings.device)
    threads = settings.threads or THREADS
    model = find_model(given, runs, reference, settings.name, threads, tell, device="cpu")
    if model.engine != "ONNX Runtime":
        raise UsageError("deploy-no-graph", name=model.name)
    values = deployment_values(model, folder, threads, settings, language)
    written = {
        name.replace("SLUG", values["slug"]): render(template, values).encode()
        for name, template in KINDS[kind].items()
    }
    if kind != "nginx" and model.source.is_file():
        written[values["model"]] = files.read_bytes(model.source, MOST_OF_A_MODEL)
    elif kind != "nginx":
        for path in sorted(path for path in model.source.iterdir() if path.is_file()):
            written[f"{values['model']}/{path.name}"] = files.read_bytes(path, MOST_OF_A_MODEL)
    if "Dockerfile" in written or kind == "ray":
        written["requirements.txt"] = "".join(f"{line}\n" for line in pinned_packages(NEEDED)).encode()
        written["rushlight.tar.gz"] = package()
    files.check_replaceable([folder / name for name in written], force)
    for name, content in written.items():
        files.write_named(folder / name, content)
    if kind == "nginx":
        files.make_folder(folder / "temporary")
    return model.name, [folder / name for name in written if "/" not in name]


def deployment_values(model: Model, folder: Path, threads: int, settings: Settings, language: str) -> dict[str, Any]:
    """Return the values of the templates."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.name.lower()).strip("-")[:40].strip("-") or "model"
    slug = slug if slug[0].isalpha() else f"m-{slug}"  # a Service's name begins with a letter
    is_file = model.source.is_file()
    size = sum(path.stat().st_size for path in ([model.source] if is_file else model.source.iterdir()))
    place = "model.onnx" if is_file else "model"
    common = [
        "--name",
        model.name,
        "--threads",
        str(threads),
        "--drain",
        f"{settings.drain:g}",
        "--deadline",
        f"{settings.deadline:g}",
    ]
    home = Path(__file__).parents[2]
    return {
        "name": model.name, "slug": slug, "image": f"rushlight-{slug}:{__version__}", "threads": threads, "model": place, "language": language,
        "python": platform.python_version(), "seconds": settings.deadline, "deadline": int(settings.deadline) + 5, "grace": int(settings.drain) + 10,
        "megabytes": MEGABYTES + 128 * -(-4 * size // (128 << 20)), "interpreter": sys.executable,
        "arguments": [*common, "--host", "0.0.0.0", "--port", "8080"], "names": settings.hosts, "hosts": [f"--allow-host={name}" for name in settings.hosts], "own_hosts": lambda name: [f"--allow-host={name}{suffix}" for suffix in INSIDE],
        "command": [sys.executable, "-m", "rushlight", "serve", str((folder / place).resolve()), *common],
        "path": "" if home.name == "site-packages" else f" {systemd(f'PYTHONPATH={home}')}",
    }  # fmt: skip


def render(template: str, values: dict[str, Any]) -> str:
    """Return a template, filled in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rushlight.serve", "deployments"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False,
        trim_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "json": lambda value: json.dumps(value, ensure_ascii=False), "systemd": lambda value: str(value).replace("%", "%%"),
        "systemd_command": lambda words: " ".join(map(systemd, words)),
    }  # fmt: skip
    return environment.get_template(f"{template}.jinja").render(values)


def systemd(word: str) -> str:
    """Return a word as a unit file has it: in quotes, with nothing in it that systemd would fill in."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def pinned_packages(names: tuple[str, ...]) -> Iterator[str]:
    """Give `name==version` of packages, and of all that these need, as they are installed here."""
    from packaging.requirements import Requirement

    found, wanted = dict[str, str](), list(names)
    while wanted:
        name = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        if name == "onnxruntime" and not any(metadata.distributions(name=name)):
            name = key = "onnxruntime-gpu"  # which is installed in its place, for a card
        found[key] = metadata.version(name)
        needs = map(Requirement, metadata.requires(name) or ())
        wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    yield from (f"{name}=={version.partition('+')[0]}" for name, version in sorted(found.items()))


def package() -> bytes:
    """Return this very Rushlight as an archive, the same bytes each time."""
    home, content = Path(__file__).parents[1], io.BytesIO()
    with gzip.GzipFile("", "wb", 6, content, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(home.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                entry = tarfile.TarInfo(f"rushlight/{path.relative_to(home).as_posix()}")
                body = files.read_bytes(path, MOST_OF_A_MODEL)
                entry.size, entry.mode = len(body), 0o644
                archive.addfile(entry, io.BytesIO(body))
    return content.getvalue()
