"""Sphinx's settings, for both languages. Placeholders in pages are filled with what is generated from the code."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
IS_CHINESE = tags.has("zh")  # type: ignore[name-defined]  # noqa: F821  (Sphinx provides it)
os.environ["RUSHLIGHT_LANGUAGE"] = "zh" if IS_CHINESE else "en"
os.environ["COLUMNS"] = "100"
sys.path.insert(0, str(DOCS))

import generated  # noqa: E402

import rushlight  # noqa: E402

project = "Rushlight"
author = "the authors of Rushlight"
copyright = "the authors of Rushlight, Apache-2.0"
version = release = rushlight.__version__
language = "zh_CN" if IS_CHINESE else "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["zh", "_static", "_templates"]
nitpicky = False
smartquotes_action, smartquotes_excludes = "D", {}  # dashes alone: napoleon writes two hyphens for one
default_role = "code"  # docstrings write `name`, as Markdown does
templates_path = ["_templates"]

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = "Rushlight"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {
    "**": [
        "sidebar/brand.html", "sidebar/language.html", "sidebar/search.html", "sidebar/scroll-start.html",
        "sidebar/navigation.html", "sidebar/scroll-end.html",
    ]
}  # fmt: skip
html_context = {"other_language": "en" if IS_CHINESE else "zh", "other_name": "English" if IS_CHINESE else "简体中文"}
copybutton_exclude = ".linenos, .gp, .go"
pygments_style = "friendly"
pygments_dark_style = "material"
suppress_warnings = ["myst.header"]  # a page's first heading may be inside what is generated


CHINESE = "[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef“”]"


def fill(app: Any, page: str, source: list[str]) -> None:
    """Fill a page's placeholders, `<!-- generated: NAME -->`, and name files that are not in the site."""
    text = re.sub(
        r"<!-- generated: (\w+) -->",
        lambda match: generated.markdown(match[1], os.environ["RUSHLIGHT_LANGUAGE"]),
        source[0],
    )
    folder = Path(app.srcdir, page).parent
    if IS_CHINESE:  # a line's end is a blank in HTML, and Chinese has none between characters
        pieces = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
        text = "".join(
            re.sub(f"(?<={CHINESE})\\n *(?={CHINESE})", "", piece) if piece[:3] != "```" else piece for piece in pieces
        )
    source[0] = re.sub(r"(!?)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)", lambda match: link(match, folder), text)


def link(match: re.Match[str], folder: Path) -> str:
    """Return a link as it is, or, where it leads out of the site, the linked file's path in the repository."""
    image, words, target, _ = match.groups()
    path = (folder / target).resolve()
    is_page = (
        image or ":" in target or (path.is_relative_to(DOCS) and (not IS_CHINESE or path.is_relative_to(DOCS / "zh")))
    )
    if is_page:
        return match[0]
    if path.is_relative_to(DOCS):  # the other language's page
        return f"[{words}]({os.path.relpath(path, folder)})" if path.suffix != ".md" else f"{words}"
    place = path.relative_to(DOCS.parent).as_posix()
    if words.strip("`").rstrip("/") in (place, path.name):
        return f"`{place}`"
    return f"{words}（`{place}`）" if IS_CHINESE else f"{words} (`{place}`)"


def as_restructured(app: Any, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Make an indented example in a docstring a code block."""
    for number in range(len(lines) - 2, 0, -1):
        if re.match(r"    [^ *-]", lines[number]) and not lines[number - 1].strip():
            lines[number - 1 : number] = ["", ".. code-block:: python", ""]


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", as_restructured)
