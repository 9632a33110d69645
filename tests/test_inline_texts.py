"""No words for users stand in the code: they stand in texts/, in both languages. What still does may only shrink.

Found are: strings that read as prose (two words in a row, or a word beside a value), the headings and labels of tables,
the help of options, the docstrings of commands. Not found are single words in a constant, such as a table of labels.
"""

from __future__ import annotations

import ast
import functools
import re

import pytest
from tests.source import SOURCE, trees

# Inline texts of each file that has some. Whoever moves one into texts/ lowers the number; none may rise, none be added.
REMAINING = {
    "runs/verify.py": 2,
}

EXEMPT = {
    **dict.fromkeys(("eject/data.py", "eject/model.py", "eject/script.py"), "code, for a script"),
    "report/plots.py": "pictures belong to the run's files, which are English",
    "training/engine/fingerprint.py": "digests",
    "training/engine/lower_matmul.py": "an operator's signature",
    "serve/management.py": "TorchServe's own words, which its clients read",
    "serve/remote.py": "the fields of the protocol's messages",
    "training/step/memory.py": "torch's own messages, to be recognised",
}

VALUE = "\0"  # stands for the values of an f-string
PROSE = re.compile(
    r"(?<![-\w.])[A-Za-z][a-z]+[,;:.]? [a-z]{2,}"  # two words
    r"|(?<![-\w.\"'/])[A-Za-z][a-z]{2,}:? \0|\0 [a-z]{2,}\b"  # a word and a value
)
NO_PROSE = re.compile(
    r"rushlight [a-z]+ "  # a command to type
    r"|white on rgb|(bold|dim|red|yellow|green|cyan)( [a-z]+)*( \0)?$"  # a style
    r"|\(\?s\)"
    r"|system volume information$"  # a folder of Windows
    r"|attachment; filename="  # a header of HTTP
    r"|<svg width="  # a drawing
)
RECOGNISED_BY = {
    "count", "endswith", "entry_of", "filterwarnings", "find", "findall", "fullmatch", "index", "match", "partition", "removeprefix",
    "removesuffix", "replace", "rpartition", "search", "split", "startswith", "strip", "sub",
}  # fmt: skip
PROGRAMMERS_ERRORS = {
    "AssertionError", "AttributeError", "KeyError", "NotImplementedError", "RuntimeError", "TypeError", "ValueError",
}  # fmt: skip
LABELLED_BY = {"add_column", "add_row", "print_marked", "print_titled"}
HELP = {"help", "epilog", "show_default", "rich_help_panel"}


def literal(node: ast.AST) -> str | None:
    """The text of a string or an f-string; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    return None


def name_of(call: ast.AST) -> str:
    """The name of the function or method that is called."""
    function = call.func if isinstance(call, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


class Scan(ast.NodeVisitor):
    """Finds the inline texts of one file as (line, text)."""

    def __init__(self, code: ast.Module) -> None:
        self.found: list[tuple[int, str]] = []
        self.visit(code)

    def visit_Module(self, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> None:
        has_docstring = ast.get_docstring(node) is not None
        for child in node.body[has_docstring:]:
            self.visit(child)

    visit_ClassDef = visit_Module

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        docstring = ast.get_docstring(node)
        if docstring and {name_of(decorator) for decorator in node.decorator_list} & {"command", "callback"}:
            self.found.append((node.lineno, docstring))
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.visit(node.args)
        self.visit_Module(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Compare(self, node: ast.Compare) -> None:
        for part in (node.left, *node.comparators):
            if literal(part) is None:  # a text that is compared with is not shown
                self.visit(part)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        if literal(node.slice) is None:
            self.visit(node.slice)

    def visit_For(self, node: ast.For) -> None:
        headings = [
            call.args[0]
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and name_of(call) == "add_column" and call.args
        ]
        if isinstance(node.iter, ast.Tuple) and ast.unparse(node.target) in map(ast.unparse, headings):
            for entry in node.iter.elts:
                self.add(entry, literal(entry) or "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = name_of(node)
        if name in PROGRAMMERS_ERRORS:
            return
        self.visit(node.func)
        for argument in node.args:
            text = literal(argument)
            if text is not None and name in LABELLED_BY and re.search(r"[A-Za-z]{2}", text):
                self.add(argument, text)
            elif text is None or name not in RECOGNISED_BY:
                self.visit(argument)
        for keyword in node.keywords:
            text = literal(keyword.value)
            if text and keyword.arg in HELP and (keyword.arg != "show_default" or " " in text):
                self.add(keyword.value, text)
            elif keyword.arg != "style":
                self.visit(keyword.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.look_at(node, node.value.replace("{}", VALUE))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self.look_at(node, literal(node) or "")
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def look_at(self, node: ast.expr, text: str) -> None:
        if PROSE.search(text):
            self.add(node, text)

    def add(self, node: ast.expr, text: str) -> None:
        if text and not NO_PROSE.match(text) and (node.lineno, text) not in self.found:
            self.found.append((node.lineno, text))


@functools.cache
def inline_texts() -> dict[str, list[tuple[int, str]]]:
    """The inline texts of each file that has some."""
    found = {name: Scan(tree).found for name, tree in trees().items() if name not in EXEMPT}
    return {name: texts for name, texts in found.items() if texts}


def test_no_text_is_inline_but_those_that_were_and_these_only_shrink() -> None:
    found = inline_texts()
    more = {name: texts for name, texts in found.items() if len(texts) > REMAINING.get(name, 0)}
    lines = [f"{name}, line {line}: {text}" for name, texts in more.items() for line, text in texts]
    assert not more, "move these into texts/, or lower what remains:\n" + "\n".join(lines)


def test_every_number_that_remains_is_of_a_file_that_has_inline_texts() -> None:
    """A file without any has no number: it cannot get some back."""
    assert set(REMAINING) - set(inline_texts()) == set()


def test_every_exemption_is_of_a_file_that_is_there() -> None:
    assert [name for name in EXEMPT if not (SOURCE / name).is_file()] == []


@pytest.mark.parametrize(
    "code",
    [
        'progress.message("No step was taken.")',
        'progress.message(f"Saved {path}")',
        'notes.append(f"{name} is read in batches.")',
        'raise DataError("key", reason="it ends too early")',
        'table.add_column("train")',
        'for heading in ("epoch", "time"):\n    table.add_column(heading)',
        'x = typer.Option("--runs", help="Where?")',
        'def f(runs: Annotated[Path, typer.Option(help="Where?")]) -> None:\n    pass',
        'word = "epoch {}".format(epoch)',
        '@app.command()\ndef save() -> None:\n    """Save."""',
        'def f():\n    """Return."""\n    return "nothing to do"',
        'print_marked(console, "note:", "yellow", text)',
    ],
)
def test_an_inline_text_is_found(code: str) -> None:
    assert Scan(ast.parse(code)).found


@pytest.mark.parametrize(
    "code",
    [
        'progress.message(text("training.no-profile"))',
        'progress.message(Note("training.kept", step=step, path=path))',
        'raise DataError("no-table", path=path)',
        'raise ValueError("a value that nobody sees")',
        'is_full = "no space left" in str(error)',
        'reason = str(error).removeprefix("os error ")',
        'console.print(text, style="bold red")',
        'command = f"rushlight resume {run}"',
        'path = f"{folder}/{name}.png"',
        '"""What this module does."""\n\ndef f():\n    """Return what it does."""',
        'table.add_column("")',
        'value = content["not a text"]',
        'x = typer.Option(show_default="64")',
        'for heading in ("epoch", "time"):\n    table.add_column(text(f"console.headings.{heading}"))',
    ],
)
def test_what_is_no_text_for_users_is_not_found(code: str) -> None:
    assert Scan(ast.parse(code)).found == []
