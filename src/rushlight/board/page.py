"""The HTML around the page's script. What is filled in is escaped."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

PAGE = Path(__file__).parent / "page"


def html_page(name: str, **values: str) -> str:
    """Return `page/NAME.html` with its values filled in."""
    template = Template((PAGE / f"{name}.html").read_text(encoding="utf-8"))
    plain = {key: escape(value.encode("utf-8", "replace").decode()) for key, value in values.items()}
    return template.substitute(plain)
