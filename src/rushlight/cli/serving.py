"""`rushlight serve`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.console import print_lines
from rushlight.errors import UsageError, check_choice
from rushlight.serve import Settings, serve
from rushlight.texts import LANGUAGES, language, shown, text

TOKEN = "RUSHLIGHT_TOKEN"  # the environment variable
MOST_TOKEN = 4096  # bytes


def serve_until_told(
    write: tuple[str, Path] | None, given: list[str], runs: Path, reference: str | None, code: str | None, is_insecure: bool,
    token_file: Path | None, log: Path | None, force: bool, **options: Any,
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
        name, written = write_deployment(
            *write, given[0], runs, reference, settings, chosen, lambda note: print_lines(shown(note)), force
        )
        print_lines(text("serve.written", model=name, names=", ".join(path.name for path in written), folder=write[1]))
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
            lines.append(text(proof, name=name, count=model.examples))
            if model.note:
                lines.append(model.note)
            sizes = ", ".join(map(str, model.sizes))
            lines.append(text("serve.engine", engine=model.engine, count=model.threads, sizes=sizes))
        first = models[0]
        example = text(f"serve.example.{first.kind}", address=address, name=first.name)
        lines.append(text("serve.ready", seconds=seconds))
        lines.append(text("serve.open", address=address, example=example))
        print_lines("\n".join(lines))

    settings = Settings(token=token, log_file=log, **options)
    serve(given, runs, reference, settings, is_insecure, chosen, lambda note: print_lines(shown(note)), announce)
