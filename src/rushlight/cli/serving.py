"""`rushlight serve`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rushlight import files
from rushlight.console import print_lines
from rushlight.errors import UsageError, check_choice
from rushlight.serve import Settings, serve
from rushlight.texts import LANGUAGES, language, shown, text

TOKEN = "RUSHLIGHT_TOKEN"  # the environment variable
MOST_TOKEN = 4096  # bytes


def serve_until_told(
    write: tuple[str, Path] | None, given: list[str], runs: Path, reference: str | None, code: str | None, is_insecure: bool,
    token_file: Path | None, log: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Serve, and print the address with what to do next, once the models have repeated their recorded examples.

    With `write`, a kind of deployment and a folder, write its files there instead.
    """
    chosen = code or language()
    check_choice("language", chosen, LANGUAGES)
    if write is not None:
        from rushlight.serve import write_deployment

        if len(given) != 1 or options["models"] is not None:
            raise UsageError("deploy-one-model")
        settings = Settings(**options)
        written = write_deployment(
            *write, given[0], runs, reference, settings, chosen, lambda note: print_lines(shown(note))
        )
        print_lines(text("serve.written", names=", ".join(path.name for path in written), folder=write[1]))
        return
    token = os.environ.get(TOKEN)
    if token_file is not None:
        token = files.read_bytes(token_file, MOST_TOKEN).decode("utf-8", "replace").strip()
    if token is not None and (len(token) < 16 or not token.isascii()):
        raise UsageError("serve-weak-token")

    def announce(address: str, models: Sequence[Any], seconds: float) -> None:
        lines = []
        for model in models:
            proof = "serve.proven" if model.examples else "serve.unproven"
            name = model.name if model.version == "1" else f"{model.name}/{model.version}"
            lines.append(text(proof, name=name, count=len(model.examples.get("inputs", ()))))
            if model.note is not None:
                lines.append(shown(model.note))
            sizes = ", ".join(map(str, model.sizes))
            lines.append(text("serve.engine", engine=model.engine, count=model.threads, sizes=sizes))
        first = models[0]
        example = f"serve.example.{first.features.kind if first.features is not None else 'tensors'}"
        lines.append(text("serve.ready", seconds=seconds))
        lines.append(text("serve.open", address=address, example=text(example, address=address, name=first.name)))
        print_lines("\n".join(lines))

    with contextlib.ExitStack() as stack:
        writer = None
        if log is not None:
            with files.explained(log):
                writer = AccessLog(stack.enter_context(log.open("a", encoding="utf-8", buffering=1)))
        settings = Settings(token=token, log=writer, **options)
        serve(given, runs, reference, settings, is_insecure, chosen, lambda note: print_lines(shown(note)), announce)


class AccessLog:
    """Writes a line of JSON for each request. A disk that refuses is told once, and no request fails by it."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.has_failed = file, False

    def __call__(self, entry: dict[str, Any]) -> None:
        """Write one request's line."""
        try:
            self.file.write(json.dumps(entry) + "\n")
        except OSError as error:
            if not self.has_failed:
                print_lines(text("serve.no-log", reason=error.strerror or error))
            self.has_failed = True
