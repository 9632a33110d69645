"""`rushlight serve`."""

from __future__ import annotations

import os
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
    write: tuple[str, Path] | None, given: str, runs: Path, reference: str | None, code: str | None, is_insecure: bool,
    token_file: Path | None, **options: Any
) -> None:  # fmt: skip
    """Serve, and print the address with what to do next, once the model has repeated its recorded examples.

    With `write`, a kind of deployment and a folder, write its files there instead.
    """
    chosen = code or language()
    check_choice("language", chosen, LANGUAGES)
    if write is not None:
        from rushlight.serve import write_deployment

        settings = Settings(**options)
        written = write_deployment(
            *write, given, runs, reference, settings, chosen, lambda note: print_lines(shown(note))
        )
        print_lines(text("serve.written", names=", ".join(path.name for path in written), folder=write[1]))
        return
    token = os.environ.get(TOKEN)
    if token_file is not None:
        token = files.read_bytes(token_file, MOST_TOKEN).decode("utf-8", "replace").strip()
    if token is not None and (len(token) < 16 or not token.isascii()):
        raise UsageError("serve-weak-token")

    def announce(address: str, model: Any, seconds: float) -> None:
        proof = "serve.proven" if model.examples else "serve.unproven"
        lines = [text(proof, name=model.name, count=len(model.examples.get("inputs", ())))]
        if model.note is not None:
            lines.append(shown(model.note))
        sizes = ", ".join(map(str, model.sizes))
        lines.append(text("serve.engine", engine=model.engine, count=model.threads, sizes=sizes, seconds=seconds))
        kind = model.features.kind if model.features is not None else "tensors"
        lines.append(
            text("serve.open", address=address, example=text(f"serve.example.{kind}", address=address, name=model.name))
        )
        print_lines("\n".join(lines))

    serve(
        given,
        runs,
        reference,
        Settings(token=token, **options),
        is_insecure,
        chosen,
        lambda note: print_lines(shown(note)),
        announce,
    )
