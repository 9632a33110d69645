"""The reference of all options as Markdown, a table for each panel: `python -m rushlight.options`."""

from __future__ import annotations

from rushlight.options.declare import OPTIONS, PANELS

ON_RESUME = {
    "no": "",
    "yes": "`resume` takes it too.",
    "live": "`resume` needs it again where it was a live object.",
    "only": "For `resume` only.",
}


def options_reference() -> str:
    """Return the options as Markdown: name, command line, default, meaning, and whether `resume` takes it too."""
    return "\n\n".join(f"## {panel}\n\n{table(panel)}" for panel in PANELS) + "\n"


def table(panel: str) -> str:
    """Return the options of one panel as a Markdown table."""
    rows = ["| option | command line | default | meaning |", "|---|---|---|---|"]
    for option in OPTIONS.values():
        if option.panel == panel:
            flags = ", ".join(f"`{flag}`" for flag in option.flags)
            on_resume = ON_RESUME[option.on_resume]
            meaning = " ".join(filter(None, (option.help, option.in_python, on_resume))).replace("|", "\\|")
            rows.append(f"| `{option.name}` | {flags} | {option.shown} | {meaning} |")
    return "\n".join(rows)
