"""Whether bfloat16 pays: measured where the hardware has it, refused in plain words where it does not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

import rushlight
from rushlight import device
from rushlight.cli import main
from rushlight.cli.environment import verdict
from rushlight.device import Bfloat16Speed, bfloat16_refusal, describe_environment, measure_bfloat16

CPU = torch.device("cpu")
HAS_IT = bfloat16_refusal(CPU) is None and not torch.cuda.is_available()


def said(products: float, convolutions: float) -> str:
    return verdict(Bfloat16Speed(products, convolutions, torch.get_num_threads()))


def test_the_verdict_has_both_figures_whichever_way_it_falls() -> None:
    assert said(0.45, 0.52) == (
        "pays here: matrix products take 0.45 of the time in float32, convolutions 0.52 (measured now)"
    )
    assert said(1.21, 0.97).startswith(
        "does not pay here: matrix products take 1.21 of the time in float32, convolutions 0.97"
    )
    assert said(0.5, 1.1) == (
        "pays here for matrix products (0.50 of the time in float32), not for convolutions (1.10); measured now"
    )
    assert said(0.95, 0.6).startswith(
        "pays here for convolutions (0.60 of the time in float32), not for matrix products"
    )


def test_the_verdict_of_a_busy_machine_says_how_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    text = verdict(Bfloat16Speed(0.45, 0.52, threads=1))
    assert text.endswith("(measured now, on one thread, since the machine is busy)")


def test_measuring_takes_the_time_it_is_given_and_changes_nothing() -> None:
    torch.manual_seed(0)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(0)
    began = time.perf_counter()
    speed = measure_bfloat16(CPU, seconds=0.2)
    assert time.perf_counter() - began >= 0.2
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert 0 < speed.products < 1000
    assert 0 < speed.convolutions < 1000
    assert 1 <= speed.threads <= threads


def test_a_busy_processor_is_measured_again_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that no process reaches stands for a machine that others keep busy."""
    torch.set_num_threads(2)  # the fixture of all tests puts it back
    monkeypatch.setattr(device, "LEAST_USED", 10.0)
    began = time.perf_counter()
    assert measure_bfloat16(CPU, seconds=0.1).threads == 1
    assert time.perf_counter() - began >= 0.2
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not HAS_IT, reason="this machine has no bfloat16, or a GPU")
def test_env_says_whether_bfloat16_pays(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["env"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bfloat16  ")]
    assert "of the time in float32" in line
    with pytest.raises(SystemExit):
        main(["env", "--json"])
    measured = json.loads(capsys.readouterr().out)["bfloat16_measured"]
    assert set(measured) == {"products", "convolutions", "threads"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device that is asked about is the GPU")
def test_where_the_hardware_lacks_it_nothing_is_measured_and_the_reason_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {**dict.fromkeys(device.cpu_features(), False), "AVX2": True}
    monkeypatch.setattr(device, "cpu_features", lambda: lacking)
    with pytest.raises(SystemExit):
        main(["env"])
    out = capsys.readouterr().out
    assert "has neither AVX-512 bfloat16 nor AMX, so bfloat16 would be slower" in out
    assert "of the time in float32" not in out
    with pytest.raises(SystemExit):
        main(["env", "--json"])
    assert json.loads(capsys.readouterr().out)["bfloat16_measured"] is None


def test_training_measures_nothing(tmp_path: Path) -> None:
    assert "bfloat16_measured" not in describe_environment()
    run = rushlight.train("linear", "digits", epochs=1, runs=tmp_path, quiet=True)
    assert "bfloat16_measured" not in json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
