"""Weights files: every format gives the same model back, and no file gets to run anything."""

from __future__ import annotations

import copy
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from rushlight.errors import StorageError, UsageError, WeightsError
from rushlight.export.weights import load_state, load_weights, read_weights, write_weights

ENDINGS = [".pth", ".pt", ".safetensors"]


class Tied(nn.Module):
    """A tiny language model: the embedding and the output layer share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.out = nn.Linear(4, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embed(x))


class Holder(nn.Module):
    """A model inside a surrounding module, as Lightning and many scripts have it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def mlp(outputs: int = 5, inputs: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def cnn() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    model(torch.randn(9, 1, 8, 8) * 3 + 1)  # so that the running statistics are not the initial ones
    return model.eval()


def cases() -> list[tuple[nn.Module, nn.Module, Tensor]]:
    """A model, another of the same architecture, and inputs for both."""
    torch.manual_seed(1)
    return [
        (mlp(), mlp(), torch.randn(7, 6)),
        (cnn(), cnn(), torch.randn(7, 1, 8, 8)),
        (Tied(), Tied(), torch.randint(0, 11, (7, 3))),
    ]


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert "weights_only" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("number", range(3))
def test_a_saved_model_answers_bit_for_bit_as_before(tmp_path: Path, ending: str, number: int) -> None:
    model, other, inputs = cases()[number]
    path = tmp_path / f"with space 模型{ending}"
    write_weights(model, path)
    assert not torch.equal(model(inputs), other(inputs))
    assert load_weights(other, path) == ()
    assert torch.equal(model(inputs), other(inputs))
    assert same(bits(model), bits(other))


def test_the_two_lines_of_plain_pytorch_read_a_pth(tmp_path: Path) -> None:
    model, other = mlp(), mlp()
    write_weights(model, tmp_path / "model.pth")
    other.load_state_dict(torch.load(tmp_path / "model.pth"))
    assert same(bits(model), bits(other))


def test_safetensors_own_loader_reads_tied_weights(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    write_weights(model, tmp_path / "model.safetensors")
    assert len(safetensors.torch.load_file(tmp_path / "model.safetensors")) == 1
    safetensors.torch.load_model(other, tmp_path / "model.safetensors")
    assert same(bits(model), bits(other))


def test_tied_weights_written_by_safetensors_or_without_a_word_on_ties_are_loaded(tmp_path: Path) -> None:
    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "theirs.safetensors"))
    safetensors.torch.save_file({"embed.weight": model.embed.weight}, tmp_path / "silent.safetensors")
    for name in ("theirs.safetensors", "silent.safetensors"):
        other = Tied()
        load_weights(other, tmp_path / name)
        assert same(bits(model), bits(other))
        assert other.out.weight is other.embed.weight


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_view_of_a_large_storage_is_saved_alone_and_strides_do_not_matter(tmp_path: Path, ending: str) -> None:
    model = nn.Linear(3, 4)
    model.weight = nn.Parameter(torch.randn(100_000)[:12].reshape(3, 4).t())
    model.bias = nn.Parameter(torch.randn(100_000)[::25_000])
    other = nn.Linear(3, 4)
    write_weights(model, tmp_path / f"model{ending}")
    load_weights(other, tmp_path / f"model{ending}")
    assert same(bits(model), bits(other))
    assert (tmp_path / f"model{ending}").stat().st_size < 10_000


@pytest.mark.parametrize("name", ["model.onnx", "model", "model.pth.zip"])
def test_another_ending_is_refused_with_the_endings_listed(tmp_path: Path, name: str) -> None:
    for action in (lambda path: write_weights(mlp(), path), read_weights):
        with pytest.raises(UsageError, match=r"\.pth, \.pt, \.safetensors"):
            action(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_layer_without_values_yet_is_named_when_saving(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(WeightsError, match=r"1\.weight \(not initialised"):
        write_weights(model, tmp_path / "model.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        write_weights(mlp(), tmp_path / "file" / "model.pth")


# ── what other files hold ────────────────────────────────────────────────────────────────────────────────────


class Payload:
    """Pickled, this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_malicious_file_is_refused_and_its_payload_never_runs(tmp_path: Path, form: str, ending: str) -> None:
    path, trace = tmp_path / f"model{ending}", tmp_path / "trace"
    content = {"weight": torch.ones(2), "extra": Payload(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Payload(trace)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    refused(path)
    assert not trace.exists()
    if form == "pickle":  # the payload does work where a reader is careless
        pickle.loads(path.read_bytes())
        assert trace.exists()


def test_a_pickled_whole_model_is_refused_with_its_class_and_the_way_out(tmp_path: Path) -> None:
    torch.save(mlp(), tmp_path / "model.pth")
    message = refused(tmp_path / "model.pth")
    assert "torch.nn.modules.container.Sequential" in message
    assert 'torch.save(model.state_dict(), "model.pth")' in message


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    # a zip of its layout: torch's own writer warns of its age
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"\x80\x02).")
        archive.writestr("model/data.pkl", b"\x80\x02).")
        archive.writestr("model/version", b"3\n")
    assert "TorchScript" in refused(tmp_path / "model.pt")


def a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty (0 bytes)"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (bytes(range(7, 200)), "damaged or something else"),
        (b"\0" * 700, "damaged or something else"),
        (b"\x80", "damaged or something else"),
        (b"not weights at all", "damaged or something else"),
    ],
)
def test_what_is_no_weights_file_is_named(tmp_path: Path, content: bytes, words: str, ending: str) -> None:
    (tmp_path / f"model{ending}").write_bytes(content)
    message = refused(tmp_path / f"model{ending}")
    assert words in message
    assert f"model{ending}" in message


def test_a_zip_that_torch_did_not_make_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(a_zip())
    assert "zip archive, but not one made by torch.save" in refused(tmp_path / "model.pth")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    write_weights(mlp(), path)
    whole = path.read_bytes()
    for length in range(1, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        refused(path)


def test_the_wrong_ending_is_named_with_the_right_one(tmp_path: Path) -> None:
    write_weights(mlp(), tmp_path / "a.safetensors")
    write_weights(mlp(), tmp_path / "b.pth")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    (tmp_path / "b.pth").rename(tmp_path / "b.safetensors")
    assert 'Rename the file to "a.safetensors"' in refused(tmp_path / "a.pth")
    assert 'Rename the file to "b.pth"' in refused(tmp_path / "b.safetensors")


def test_a_missing_file_suggests_the_nearest_name(tmp_path: Path) -> None:
    write_weights(mlp(), tmp_path / "model.pth")
    assert 'Did you mean "model.pth"?' in refused(tmp_path / "modle.pth")
    assert "no such file" in refused(tmp_path / "nowhere" / "model.pth")


def test_a_folder_with_a_files_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").mkdir()
    assert "cannot be read" in refused(tmp_path / "model.pth")


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_weights_in_a_training_scripts_checkpoint_are_taken_out_and_that_is_said(tmp_path: Path, key: str) -> None:
    model, other = cnn(), cnn()
    optimizer = torch.optim.Adam(model.parameters())
    torch.save({"epoch": 3, key: model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "last.pth")
    (note,) = load_weights(other, tmp_path / "last.pth")
    assert f'"{key}"' in note
    assert "epoch, optimizer" in note
    assert same(bits(model), bits(other))


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "epoch": 3, 7: torch.ones(1)}, tmp_path / "odd.pth")
    assert "epoch (int), 7 (Tensor)" in refused(tmp_path / "odd.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    assert "found a list" in refused(tmp_path / "list.pth")


# ── fitting ──────────────────────────────────────────────────────────────────────────────────────────────────


def fails_to_load(model: nn.Module, state: dict[str, Tensor]) -> str:
    before = bits(model)
    with pytest.raises(WeightsError) as caught:
        load_state(model, state, "model.pth")
    assert same(bits(model), before)
    return str(caught.value)


def test_a_mismatch_lists_what_is_missing_left_over_and_reshaped_and_changes_nothing() -> None:
    state = mlp().state_dict()
    state["extra"] = torch.ones(3)
    del state["0.bias"]
    state["2.weight"] = torch.ones(5, 9)
    message = fails_to_load(mlp(), state)
    assert "missing from the file (1): 0.bias (8,)" in message
    assert "not in the model (1): extra (3,)" in message
    assert "2.weight: (5, 9) in the file, (5, 8) in the model" in message


def test_only_the_first_eight_differences_are_shown_with_how_many_there_are() -> None:
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(10)))
    message = fails_to_load(deep, {})
    assert "missing from the file (20)" in message
    assert "and 12 more" in message


def test_another_number_of_classes_is_said_in_words() -> None:
    message = fails_to_load(mlp(outputs=5), mlp(outputs=10).state_dict())
    assert "trained for 10 outputs (classes), the model has 5" in message


def test_another_number_of_inputs_is_said_in_words() -> None:
    message = fails_to_load(mlp(inputs=6), mlp(inputs=784).state_dict())
    assert "trained on 784 inputs (features or channels), the model takes 6" in message


@pytest.mark.parametrize("wrap", [nn.DataParallel, Holder, lambda model: torch.compile(model, backend="eager")])
@pytest.mark.parametrize("way", ["file is wrapped", "model is wrapped"])
def test_a_wrappers_prefix_is_matched_and_said(wrap: type, way: str) -> None:
    model, other = cnn(), cnn()
    file = wrap(model) if way == "file is wrapped" else model
    target = wrap(other) if way == "model is wrapped" else other
    (note,) = load_state(target, file.state_dict(), "model.pth")
    assert "0.weight" in note
    assert same(bits(model), bits(other))


def test_two_wrappers_at_once_are_matched() -> None:
    model, other = mlp(), mlp()
    state = nn.DataParallel(torch.compile(Holder(model), backend="eager")).state_dict()
    assert next(iter(state)) == "module._orig_mod.model.0.weight"
    assert len(load_state(other, state, "model.pth")) == 1
    assert same(bits(model), bits(other))


def test_a_prefix_that_makes_only_some_names_fit_is_not_guessed() -> None:
    state = {f"module.{name}": value for name, value in mlp().state_dict().items()}
    del state["module.0.bias"]
    assert "missing from the file (4)" in fails_to_load(mlp(), state)


def test_dtypes_are_converted_to_the_models() -> None:
    model, other = mlp().double(), mlp()
    load_state(other, model.state_dict(), "model.pth")
    assert other[0].weight.dtype == torch.float32
    assert torch.equal(other[0].weight, model[0].weight.float())


def test_loading_leaves_the_parameters_the_same_objects_so_an_optimizer_keeps_them(tmp_path: Path) -> None:
    model, other = mlp(), mlp()
    parameters = list(other.parameters())
    write_weights(model, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert all(left is right for left, right in zip(parameters, other.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_saving_changes_neither_the_model_nor_a_copy_made_before(tmp_path: Path) -> None:
    model = cnn()
    before = copy.deepcopy(model)
    for ending in ENDINGS:
        write_weights(model, tmp_path / f"model{ending}")
    assert same(bits(before), bits(model))
