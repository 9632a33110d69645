"""The documents run: every Python block is executed, every command is parsed, and run where that is cheap.

Blocks of one walk (a page, or the pages of the guide) share one namespace and one temporary folder, from top to bottom.
A ```text block right after a Python block is what the block prints; after a command, one that begins with "error:" is
how the command fails. Words are compared and figures are not, since these differ between machines.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import pytest
import torch
import typer

import rushlight
from rushlight.cli import main
from rushlight.cli.app import app
from rushlight.data.sources.named.catalog import DATASETS
from rushlight.options import OPTIONS
from rushlight.report.report import Report

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "notes", "benchmarks", "faults")
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for name in FOLDERS for path in (ROOT / name).rglob("*.md"))]
CHINESE = [page for page in PAGES if page.startswith("docs/zh/")]
GUIDE = ["docs/guide/index.md", *(f"docs/guide/{name}.md" for name in (
    "network", "data", "training", "testing", "saving", "your-data", "keeping-going"
))]  # fmt: skip
WALKS = [GUIDE, *([page] for page in PAGES if page not in {*GUIDE, *CHINESE})]  # the Chinese pages have the same code
NEEDS = {
    "docs/how-to/from-lightning.md": "lightning",
    "docs/how-to/keras-model.md": "keras",
}  # pages about a package that is no dependency
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
DOWNLOADED = [name for name, dataset in DATASETS.items() if dataset.layout != "shipped"]
ELSEWHERE = {"--version", "--traceback", "--help"}  # of `rushlight` itself


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line its text starts on."""

    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """Return a page's fenced blocks."""
    text = read(page)
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in found]


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def follower(page: str, block: Block) -> Block | None:
    """Return the block that comes next with nothing but empty lines between."""
    after = "\n".join(read(page).splitlines()[block.line - 1 + block.text.count("\n") + 1 :])
    following = next((later for earlier, later in pairwise(blocks(page)) if earlier == block), None)
    return following if re.match(r"\n*```text", after) else None


def words(text: str) -> list[str]:
    """Return a text without its figures and its layout, for comparison."""
    return re.sub(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?|·", "#", text).split()


def commands(block: Block) -> list[list[str]]:
    """Return the arguments of every `rushlight` command in a block."""
    parts = [part.strip() for line in block.text.splitlines() for part in line.split("&&")]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.split(" ")[0] == "rushlight"]


def parsed(arguments: list[str]) -> click.Context | None:
    """Parse a command as the CLI does; None when it asks for help or the version."""
    if set(arguments) & ELSEWHERE:
        return None
    command = COMMANDS[arguments[0]]
    return command.make_context(arguments[0], list(arguments[1:]))


def is_cheap(context: click.Context) -> bool:
    """Tell whether a command can be run here: on data that is here, with files that are here."""
    given = context.params
    if context.info_name in ("board", "serve", "tune"):
        return False  # it serves until Ctrl-C, or trains many times
    if context.info_name == "train":
        return given["data"] not in DOWNLOADED
    if context.info_name == "data":
        return given["source"] is None or given["source"] not in DOWNLOADED
    words_for_it = [given.get("run"), *given.get("inputs", [])]  # RUN, FILE: the reader's own
    is_there = given.get("run") != "latest" or Path("runs").exists()
    return is_there and not any(word.isupper() for word in words_for_it if word)


def on_small_data(code: str) -> str:
    """Return a block's code with the digits in the place of datasets that would have to be downloaded."""
    return re.sub("|".join(f'"{name}"' for name in DOWNLOADED), '"digits"', code)


def run_command(arguments: list[str]) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0), printed.getvalue()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread: on networks this small, more of them mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def walk_id(walk: list[str]) -> str:
    return walk[0].removesuffix("/index.md")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
@pytest.mark.parametrize("walk", WALKS, ids=walk_id)
def test_every_block_of_a_page_does_what_the_page_says(
    walk: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if walk[0] in NEEDS:
        pytest.importorskip(NEEDS[walk[0]])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    module = types.ModuleType("__main__")  # as in a script, so that its classes are called __main__.Net
    monkeypatch.setitem(sys.modules, "__main__", module)
    for page, block in ((name, block) for name in walk for block in blocks(name)):
        shown = follower(page, block)
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + on_small_data(block.text), page, "exec")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, module.__dict__)
            assert words(printed.getvalue()) == words(shown.text if shown else ""), f"{page}, line {block.line}"
        if block.language == "bash" and "pip install" not in block.text:
            must_fail = shown is not None and shown.text.startswith("error:")
            for arguments in commands(block):
                context = parsed(arguments)
                if context is None or not is_cheap(context):
                    continue
                code_found, output = run_command(arguments)
                assert (code_found != 0) == must_fail, f"{page}, line {block.line}: {output}"
                assert not must_fail or words(output) == words(shown.text if shown else "")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_block_parses(page: str) -> None:
    for block in blocks(page):
        if block.language == "bash":
            for arguments in commands(block):
                parsed(arguments)  # click raises where an option or an argument is not there
            for script in re.findall(r"python (\S+\.py)", block.text):
                assert (ROOT / script).is_file(), f"{page}, line {block.line}: {script}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_in_the_prose_exists(page: str) -> None:
    options = {name: {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
               for name, command in COMMANDS.items()}  # fmt: skip
    every = set().union(*options.values(), ELSEWHERE)
    guide = read("examples/guide.py")
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", span))
        if span.startswith("rushlight ") and not span.startswith("rushlight -"):
            command = span.split()[1].rstrip(",;:")
            assert command in COMMANDS, f"{page}: `{span}`"
            assert named <= options[command] | ELSEWHERE, f"{page}: `{span}`"
        elif "guide.py" in span:
            assert all(f'"{option}"' in guide for option in named), f"{page}: `{span}`"
        elif not span.startswith(("pip ", "ruff ", "python ", "tensorboard ")):
            assert named <= every, f"{page}: `{span}`"


@pytest.mark.parametrize("page", PAGES)
def test_every_python_name_in_the_prose_exists(page: str) -> None:
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        for name in re.findall(r"(?<![\w./])rushlight\.([A-Za-z_]+)(?!\.py)\b", span):
            assert name in dir(rushlight) or (ROOT / "src/rushlight" / name).exists(), f"{page}: `{span}`"
        for name in re.findall(r"(?<![\w.])run\.([a-z_]+)(?!\.)\b", span):
            assert hasattr(rushlight.Run, name) or name in {"lock", "py"}, f"{page}: `{span}`"
        for name in re.findall(r"(?<![\w.])report\.([a-z_]+)", span):
            assert name in Report.__dataclass_fields__ or hasattr(Report, name) or name == "json", f"{page}: `{span}`"
        for call in re.findall(r"(?:rushlight\.)?(?:train|epochs|open_data)\(([^`]*)\)", span):
            for name in re.findall(r"(?:^|, )([a-z_]+)=", call):
                assert name in OPTIONS, f"{page}: `{span}`"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_inside_the_repository_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("https://", "http://", "mailto:")):
            path, _, anchor = target.partition("#")
            linked = (ROOT / page).parent / path if path else ROOT / page
            assert linked.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(linked), f"{page}: {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", CHINESE)
def test_a_chinese_page_has_the_code_and_the_output_of_the_english_one(page: str) -> None:
    english, chinese = (blocks(name) for name in (page.replace("docs/zh/", "docs/"), page))
    assert [block.language for block in english] == [block.language for block in chinese]
    for one, other in zip(english, chinese, strict=True):
        place = f"{page}: line {one.line} and {other.line}"
        if one.language == "python":  # comments may be translated
            assert ast.dump(ast.parse(one.text)) == ast.dump(ast.parse(other.text)), place
        elif one.language == "bash":
            assert commands(one) == commands(other), place
        else:
            assert one.text == other.text, place


def test_every_page_of_the_site_stands_in_both_languages() -> None:
    english = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/") and page not in CHINESE}
    assert english == {page.removeprefix("docs/zh/") for page in CHINESE}


def test_the_pages_hold_what_is_checked_here() -> None:
    found = [block for page in GUIDE for block in blocks(page)]
    assert sum(block.language == "python" for block in found) > 10
    assert sum(len(commands(block)) for block in found if block.language == "bash") > 10
    assert [page for page in PAGES if page.startswith("docs/guide/") and page not in GUIDE] == []
    how_to = [page for page in PAGES if page.startswith("docs/how-to/") and not page.endswith("index.md")]
    assert len(how_to) >= 10
    for page in [*how_to, "docs/from-keras.md"]:
        assert {"python", "bash"} & {block.language for block in blocks(page)}, page


@pytest.fixture(scope="module")
def generated() -> types.ModuleType:
    """What the site's pages are filled with from the code."""
    location = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def test_the_reference_has_every_option_command_and_error(generated: types.ModuleType) -> None:
    table = generated.markdown("options", "en")
    assert [name for name in OPTIONS if f"`{name}`" not in table] == []
    described = generated.markdown("commands", "en")
    for name, command in COMMANDS.items():
        assert f"## rushlight {name}\n" in described
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert [option for option in options - ELSEWHERE if f"`{option}`" not in described] == []
    catalogue, _ = generated.read_errors("en")
    index = generated.markdown("errors", "en")
    assert len(catalogue) > 100
    assert [key for key in catalogue if f"(error-{key})=" not in index] == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_in_both_languages(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason='the site is built with the extra "docs"')
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    built = subprocess.run(
        [sys.executable, "-m", "docs", str(tmp_path / "site")], cwd=ROOT, env=environment, capture_output=True, text=True,
        encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    pages = [page.removeprefix("docs/").replace(".md", ".html") for page in PAGES if page.startswith("docs/")]
    assert [
        page for page in pages if not (tmp_path / "site" / (page if page.startswith("zh/") else f"en/{page}")).is_file()
    ] == []
    html = (tmp_path / "site" / "en" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', html)  # offline
