"""The HTML around the page's script. What is filled in is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

PAGE = Path(__file__).parent / "page"


def html_page(name: str, raw: Mapping[str, str] | None = None, **values: str) -> str:
    """Return `page/NAME.html` with its values filled in, those of `raw` as they are."""
    template = Template((PAGE / f"{name}.html").read_text(encoding="utf-8"))
    plain = {key: escape(value.encode("utf-8", "replace").decode()) for key, value in values.items()}
    return template.substitute(plain, **(raw or {}))


def own_text(name: str) -> str:
    """Return one of the page's own files."""
    return (PAGE / name).read_text(encoding="utf-8")
