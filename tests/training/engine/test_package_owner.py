"""Cached machine code is executed only where nobody but this account can have written it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from rushlight.training.engine import compiler, package

KEY = "a-key"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one package, as this account writes it."""
    monkeypatch.setenv("RUSHLIGHT_COMPILED", str(tmp_path / "compiled"))
    folder = tmp_path / "compiled" / KEY
    folder.mkdir(parents=True)
    for path in (folder.parent, folder):
        path.chmod(0o700)
    (folder / "steps.so").write_bytes(b"code")
    takes = [[[1], [1], "torch.float32"]] * 2
    content = {"count": 1, "noise": [], "takes": takes, "code_sha256": hashlib.sha256(b"code").hexdigest()}
    (folder / "steps.json").write_text(json.dumps(content))
    (folder / "steps.so").chmod(0o600)
    return folder


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_a_package_of_this_account_alone_is_found(cached: Path) -> None:
    assert package.find_package(KEY) is not None


@pytest.mark.skipif(os.name == "nt", reason="no modes")
@pytest.mark.parametrize("mode", [0o020, 0o002])
@pytest.mark.parametrize("place", ["compiled", KEY, "steps.so"])
def test_a_package_that_others_may_write_is_not_used(place: str, mode: int, cached: Path) -> None:
    path = {"compiled": cached.parent, KEY: cached, "steps.so": cached / "steps.so"}[place]
    path.chmod(path.stat().st_mode | mode)
    assert package.find_package(KEY) is None
    if place == "compiled":
        assert "others may write in" in (compiler.why_not_here() or "")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["", "steps.so"])
def test_a_package_of_another_account_is_not_used(name: str, cached: Path) -> None:
    os.chown(cached / name, 65534, 65534)
    assert package.find_package(KEY) is None
