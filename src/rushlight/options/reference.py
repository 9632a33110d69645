"""The reference of all options as Markdown, a table for each panel: `python -m rushlight.options`."""

from __future__ import annotations

from rushlight.options.declare import OPTIONS, PANELS
from rushlight.texts import Note

HEADINGS = ("option", "command-line", "default", "meaning")


def options_reference(language: str = "en") -> str:
    """Return the options as Markdown: name, command line, default, meaning, and whether `resume` takes it too."""

    def words(key: str) -> str:
        return Note(key).translated(language)

    heading = "| " + " | ".join(words(f"help.reference.{name}") for name in HEADINGS) + " |\n|---|---|---|---|"
    found = ""
    for panel in PANELS:
        found += f"## {words(f'help.panels.{panel}')}\n\n{heading}\n"
        for option in (option for option in OPTIONS.values() if option.panel == panel):
            flags = ", ".join(f"`{flag}`" for flag in option.flags)
            on_resume = None if option.on_resume == "no" else Note(f"help.reference.resume-{option.on_resume}")
            notes = (note for note in (option.help, option.in_python, on_resume) if note is not None)
            between = "" if language == "zh" else " "
            meaning = between.join(note.translated(language) for note in notes).replace("|", "\\|")
            default = option.default if option.in_words is None else option.in_words.translated(language)
            found += f"| `{option.name}` | {flags} | {default} | {meaning} |\n"
        found += "\n"
    return found.removesuffix("\n")
