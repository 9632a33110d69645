"""Which device is chosen, what the machine is said to have, and bfloat16 refused in plain words where it has none."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from rushlight import device
from rushlight.cli import main
from rushlight.errors import UsageError

HAS_GPU = torch.cuda.is_available()


def test_a_device_by_name_is_tried_before_it_is_used() -> None:
    assert device.choose_device("cpu") == (torch.device("cpu"), ())
    for name in ("cpuu", "tpu", 1.5):
        with pytest.raises(UsageError, match=r"is not a device\. Here there is: .*cpu"):
            device.choose_device(name)  # type: ignore[arg-type]


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(UsageError, match='"cuda:1" is not available to this torch'):
        device.choose_device("cuda:1")


def test_an_nvidia_gpu_that_torch_cannot_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "information"
    card.write_text("Model: \t\t NVIDIA GeForce GTX 970\nIRQ:   31\n")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(Path, "glob", lambda *_: [card])
    monkeypatch.setattr(device, "is_available", lambda kind: False)
    chosen, (note,) = device.choose_device()
    assert chosen == torch.device("cpu")
    assert note.startswith(f"This machine has an NVIDIA GeForce GTX 970; this torch ({torch.__version__})")


def test_the_systems_files_are_read_by_key(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: A Processor: fast\nflags\t\t: fpu avx2 amx_bf16\nmodel name\t: Another\n"
    )
    assert device.entry_of(file, "model name") == "A Processor: fast"
    assert device.entry_of(file, "missing") == device.entry_of(tmp_path / "none", "flags") == ""


def test_the_instructions_that_matter_are_read_from_the_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("flags\t\t: fpu avx2 avx512f amx_bf16\n")
    monkeypatch.setattr(device, "CPUINFO", file)
    assert [name for name, has_it in device.cpu_features().items() if has_it] == ["AVX2", "AVX-512", "AMX bfloat16"]
    assert device.precision_refusal("bfloat16", torch.device("cpu")) is None


@pytest.mark.skipif(HAS_GPU, reason="the device that is asked about is the GPU")
def test_env_says_whether_the_hardware_has_bfloat16_and_why_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {**dict.fromkeys(device.cpu_features(), False), "AVX2": True}
    for features, words in (
        (lacking, "has neither AVX-512 bfloat16 nor AMX"),
        ({**lacking, "AMX bfloat16": True}, "yes"),
    ):
        monkeypatch.setattr(device, "cpu_features", lambda features=features: features)
        with pytest.raises(SystemExit):
            main(["env"])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bfloat16 hardware")]
        assert words in line
        with pytest.raises(SystemExit):
            main(["env", "--json"])
        assert words in json.loads(capsys.readouterr().out)["bfloat16"]


def test_free_memory_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.available_memory() > 1 << 20
    monkeypatch.setattr(device, "entry_of", lambda *_: "")
    assert device.available_memory() > 1 << 20  # by the system's own count of pages


@pytest.mark.parametrize(
    ("reason", "help"),
    [
        ("CUDA error: no kernel image is available for execution on the device", "pytorch.org"),
        ("CUDA initialization: The NVIDIA driver on your system is too old", "update the NVIDIA driver"),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", "nvidia-smi shows which"),
    ],
)
def test_a_card_that_cannot_be_used_is_named_with_what_helps(
    reason: str, help: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError(reason)

    monkeypatch.setattr(device, "is_available", lambda kind: kind == "cuda")
    monkeypatch.setattr(device, "device_name", lambda _: "Card")
    monkeypatch.setattr(torch, "ones", fails)
    chosen, (note,) = device.choose_device()
    assert chosen == torch.device("cpu")
    assert note.startswith(f"Card is there but this torch cannot use it: {reason}")
    assert help in note


def test_what_torch_warns_of_when_it_finds_no_card_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def warns() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 9000).\nMore", stacklevel=1
        )
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", warns)
    monkeypatch.setattr(device, "nvidia_card", lambda: "")
    chosen, (note,) = device.choose_device()
    assert chosen == torch.device("cpu")
    assert "too old (found version 9000). (update the NVIDIA driver" in note
    assert "More" not in note


def test_a_precision_that_a_device_lacks_is_refused_with_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(device, "device_name", lambda _: "Old card")
    for precision in ("bfloat16", "tf32"):
        assert device.precision_refusal(precision, card) == (
            f"Old card has compute capability 7.5, and {precision} needs 8.0; float16 works"
        )
    assert device.precision_refusal("float16", card) is device.precision_refusal("float32", card) is None
    assert device.precision_refusal("float16", torch.device("cpu")) == "float16 is for NVIDIA cards"
