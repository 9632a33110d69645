"""Networks by name, and the user's own by `file.py:Class`."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.processes import run_python
from torch import nn

from rushlight.errors import ModelError, UsageError
from rushlight.models import build_model, load_model_class
from rushlight.models.custom import build_custom, source_digest

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (5, 3)}, "cnn": {"channels": (2, 3)}, "resnet": {"width": 2}, "linear": {}, "unet": {"width": 2},
}  # fmt: skip


def weights(model: nn.Module) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in model.state_dict().values()]


# ── by name ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    name=st.sampled_from(sorted(SMALL)), channels=st.integers(1, 4), height=st.integers(1, 20), width=st.integers(1, 20),
    outputs=st.integers(1, 12), n=st.integers(2, 4),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_network_fits_its_input_and_output_to_the_data(
    name: str, channels: int, height: int, width: int, outputs: int, n: int
) -> None:
    model = build_model(name, (channels, height, width), outputs, SMALL[name], seed=0)
    places = (height, width) if name == "unet" else ()
    assert model.eval()(torch.zeros(n, channels, height, width)).shape == (n, outputs, *places)
    last = list(model.modules())[-1]
    assert isinstance(last, nn.Conv2d if name == "unet" else nn.Linear)  # raw outputs: no activation hampers the loss


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 4, 5)])
def test_tables_and_other_shapes_are_flattened(shape: tuple[int, ...]) -> None:
    for name in ("mlp", "linear"):
        assert build_model(name, shape, 5, SMALL[name], seed=0)(torch.zeros(2, *shape)).shape == (2, 5)
    for name in ("cnn", "resnet", "unet"):
        with pytest.raises(ModelError) as caught:
            build_model(name, shape, 5, SMALL[name], seed=0)
        assert caught.value.key == "needs-images"


def test_the_guides_network_is_an_mlp_with_hidden_8() -> None:
    model = build_model("mlp", (6,), 5, {"hidden": (8,)}, seed=0)
    assert [(layer.in_features, layer.out_features) for layer in model if isinstance(layer, nn.Linear)] == [
        (6, 8),
        (8, 5),
    ]
    assert sum(isinstance(layer, nn.ReLU) for layer in model) == 1


def test_dropout_is_there_where_it_is_asked_for() -> None:
    for name, count in (("mlp", 2), ("cnn", 1)):
        model = build_model(name, (1, 8, 8), 2, {**SMALL[name], "dropout": 0.25}, seed=0)
        assert [layer.p for layer in model if isinstance(layer, nn.Dropout)] == [0.25] * count


def test_a_residual_block_adds_its_input() -> None:
    model = build_model("resnet", (1, 8, 8), 2, {"width": 2, "blocks": (2, 1)}, seed=0).eval()
    block = model[3]
    nn.init.zeros_(block.second_norm.weight)
    x = torch.rand(1, 2, 8, 8)
    assert torch.equal(block(x), x)
    assert model[5](x).shape == (1, 4, 4, 4)


@pytest.mark.parametrize("length", [40, 9, 2, 1])
@pytest.mark.parametrize("widths", [(3, 5, 7), (2, 4)])
def test_padding_does_not_change_what_a_text_gives_and_an_empty_text_gives_something(
    length: int, widths: tuple[int, ...]
) -> None:
    model = build_model("textcnn", (40,), 3, {"vocabulary": 9, "padding": 8, "widths": widths}, seed=0).eval()
    ids = torch.full((5, 40), 8)
    ids[:4, :length] = torch.randint(0, 8, (4, length), generator=torch.Generator().manual_seed(0))
    alone = model(ids[:, :length])  # the last text is padding alone
    assert torch.allclose(model(ids), alone, atol=1e-6)
    assert torch.isfinite(alone).all()
    assert not torch.allclose(alone[0], alone[-1])


def test_a_network_of_texts_wants_ids_and_their_vocabulary() -> None:
    for shape, arguments in (((6,), {}), ((1, 8, 8), {"vocabulary": 9})):
        with pytest.raises(ModelError) as caught:
            build_model("textcnn", shape, 2, arguments, seed=0)
        assert caught.value.key == "needs-text"


@pytest.mark.parametrize("name", sorted(SMALL))
def test_weights_depend_on_the_seed_alone_and_the_global_stream_is_left_alone(name: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = build_model(name, (1, 8, 8), 3, SMALL[name], seed=7)
    assert torch.equal(torch.rand(2), expected)
    assert weights(build_model(name, (1, 8, 8), 3, SMALL[name], seed=7)) == weights(first)
    assert weights(build_model(name, (1, 8, 8), 3, SMALL[name], seed=8)) != weights(first)


@pytest.mark.parametrize(
    ("name", "arguments", "key", "said"),
    [
        ("mpl", {}, "unknown-model", 'Did you mean "mlp"'),
        ("mlp", {"hiden": (3,)}, "unknown-model-argument", 'Did you mean "hidden"'),
        ("linear", {"hidden": (3,)}, "unknown-model-argument", "linear"),
        ("mlp", {"hidden": 8}, "model-argument-values", "hidden=8"),
        ("mlp", {"dropout": 7}, "model-argument-values", "between 0 and 1"),
        ("mlp", {"hidden": (-3,)}, "model-argument-values", "hidden=(-3,)"),
        ("cnn", {"channels": ("a",)}, "model-argument-values", "channels=('a',)"),
    ],
)
def test_unknown_names_arguments_and_values_are_explained(
    name: str, arguments: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build_model(name, (1, 8, 8), 3, arguments, seed=0)
    assert caught.value.key == key
    assert said in str(caught.value)


# ── the user's own ───────────────────────────────────────────────────────────────────────────────────────────

NET = """
import helper_of_net
from torch import nn

class Net(nn.Module):
    def __init__(self, width, depth=2):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x

class Other(nn.Module): pass

def make(): return Net(3)
depth = 2
"""


@pytest.fixture(autouse=True)
def modules_and_paths_as_before() -> Iterator[None]:
    modules, paths = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        if not name.startswith(("torch", "rushlight", "numpy")):
            del sys.modules[name]
    sys.path[:] = paths


def folder_with(tmp_path: Path, text: str, name: str = "net.py") -> Path:
    folder = tmp_path / "my nets 网络"
    folder.mkdir(exist_ok=True)
    (folder / "helper_of_net.py").write_text("x = 1\n")
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_class_is_loaded_from_a_file_in_a_folder_with_blanks_and_chinese(tmp_path: Path) -> None:
    path = folder_with(tmp_path, NET)
    model = build_custom(f"{path}:Net", {"width": 3}, seed=1)
    assert model(torch.zeros(2, 3)).shape == (2, 3)
    assert weights(model) == weights(build_custom(f"{path}:Net", {"width": 3}, seed=1))
    assert weights(model) != weights(build_custom(f"{path}:Net", {"width": 3}, seed=2))
    assert source_digest(f"{path}:Net") == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_class_is_loaded_from_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder_with(tmp_path, NET, "a_net_module.py")
    monkeypatch.chdir(path.parent)
    assert load_model_class("a_net_module:Net").__name__ == "Net"
    assert load_model_class("torch.nn:Flatten") is nn.Flatten
    assert source_digest("a_net_module:Net") == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("is_module", [False, True])
@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("from torch import nn\nclass Net(nn.Module)\n    pass\n", "syntax-error", "line 2: expected ':'\n    class Net(nn.Module)"),
        ("import no_such_module\n", "model-file-failed", "No module named 'no_such_module'"),
        ("x = 1\ny = x / 0\n", "model-file-failed", "broken.py, line 2"),
        ("from torch import nn\nx = nn.Linear('a', 1)\n", "model-file-failed", "broken.py, line 2"),
        ("import sys\nsys.exit('bye')\n", "model-file-failed", "SystemExit: bye"),
        ("from torch import nn\nclass Nett(nn.Module): pass\n", "no-such-class", 'Did you mean "Nett"'),
        ("x = 1\n", "no-such-class", "no nn.Module at all"),
        ("class Net: pass\n", "not-a-module", "Net in"),
        ("Net = 3\n", "not-a-module", "it is a int"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_or_module_is_shown(
    text: str, key: str, said: str, is_module: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder_with(tmp_path, text, "broken.py")
    monkeypatch.chdir(path.parent)
    with pytest.raises(ModelError) as caught:
        load_model_class("broken:Net" if is_module else f"{path}:Net")
    assert caught.value.key == key
    assert said in str(caught.value)


def test_the_marker_of_a_syntax_error_stands_under_its_place(tmp_path: Path) -> None:
    path = folder_with(tmp_path, "class Net:\n    x = (1,, 2)\n", "broken.py")
    with pytest.raises(ModelError) as caught:
        load_model_class(f"{path}:Net")
    _, line, marker, *_ = str(caught.value).splitlines()
    assert line[marker.index("^")] == ","


@pytest.mark.parametrize(
    ("reference", "key", "said"),
    [
        ("nett.py:Net", "no-model-file", 'Did you mean "net.py"'),
        ("nowhere/net.py:Net", "no-model-file", "there is no such file"),
        ("no_module_at_all:Net", "no-model-module", "no_module_at_all"),
        ("torch.no_part:Net", "no-model-module", "torch.no_part"),
        ("net.py:", "no-such-class", "Net, Other"),
        ("net.py:depth", "not-a-module", "it is a int"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    reference: str, key: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_with(tmp_path, NET).parent)
    with pytest.raises(ModelError) as caught:
        load_model_class(reference)
    assert caught.value.key == key
    assert said in str(caught.value)


def test_a_function_that_returns_a_module_is_as_good_as_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_with(tmp_path, NET).parent)
    assert weights(build_custom("net.py:make", {}, seed=1)) == weights(build_custom("net.py:Net", {"width": 3}, seed=1))


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        ({}, "constructor-arguments", "missing a required argument: 'width'. It takes (width, depth=2)"),
        ({"width": 3, "hight": 1}, "constructor-arguments", "unexpected keyword argument 'hight'"),
        (
            {"width": 3, "depth": "two"},
            "constructor-failed",
            "TypeError: 'str' object cannot be interpreted as an integer",
        ),
        ({"width": -1}, "constructor-failed", "net.py, line 8"),
    ],
)
def test_constructor_arguments_that_are_missing_or_fail_are_explained(
    arguments: dict[str, Any], key: str, said: str, tmp_path: Path
) -> None:
    path = folder_with(tmp_path, NET)
    with pytest.raises(ModelError) as caught:
        build_custom(f"{path}:Net", arguments, seed=0)
    assert caught.value.key == key
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["random.py", "torch.py", "time.py"])
def test_a_file_called_like_a_module_of_pythons_does_not_take_its_place(name: str, tmp_path: Path) -> None:
    path = folder_with(tmp_path, NET, name)
    before = sys.modules[path.stem]
    assert load_model_class(f"{path}:Net").__name__ == "Net"
    assert sys.modules[path.stem] is before


def test_a_file_called_like_a_library_that_is_loaded_later_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "libraryofplots.py").write_text("is_library = True\n")
    path = tmp_path / "libraryofplots.py"
    path.write_text("from torch import nn\nclass Net(nn.Linear): pass\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path, str(tmp_path / "installed")])
    assert load_model_class(f"{path}:Net").__module__ == "libraryofplots_"
    sys.path.remove(str(tmp_path))
    assert importlib.import_module("libraryofplots").is_library


def test_files_in_the_current_folder_shadow_no_library_of_the_commands(tmp_path: Path) -> None:
    for name in ("typer", "rich", "filelock"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('this is no library')\n")
    done = subprocess.run([sys.executable, "-m", "rushlight", "runs"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    path = folder_with(tmp_path, NET)
    load_model_class(f"{path}:Net")
    path.write_text(NET.replace("class Other", "class Another"))
    assert load_model_class(f"{path}:Another").__name__ == "Another"


def test_the_command_trains_a_users_class_with_its_arguments(tmp_path: Path) -> None:
    text = NET.replace("return x", "return x[:, :10]").replace("for layer", "x = x.flatten(1)\n        for layer")
    path = folder_with(tmp_path, text)
    options = ("--model-arg", "width=64", "--epochs", "1", "--runs", tmp_path / "runs")
    done = run_python(["-m", "rushlight", "train", f"{path}:Net", "digits", *options])
    assert done.returncode == 0, done.stderr
    assert "Net on digits" in done.stdout
