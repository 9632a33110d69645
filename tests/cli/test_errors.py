"""What a beginner gets wrong, and what Rushlight says: where, expected, found, what to do; never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.processes import run_python

import rushlight
from rushlight.cli import main
from rushlight.errors import UsageError

Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run the command line in an empty folder; return what it said, with its exit code checked."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 2) -> str:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        said = capsys.readouterr()
        assert left.value.code == code, said.err + said.out
        assert "Traceback" not in said.err
        return " ".join(said.err.split())  # a terminal's line breaks are not part of the words

    return run


def write_csv(path: Path, labels: list[str], header: str = "a,b,c,d,e,f,kind") -> None:
    generator = np.random.default_rng(0)
    rows = [",".join([*(f"{value:.3f}" for value in generator.normal(size=6)), label]) for label in labels]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def write_npz(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    np.savez(path, x=x, y=y)


def write_model(path: Path, body: str) -> None:
    path.write_text(f"import torch\nfrom torch import nn\n\n\n{body}", encoding="utf-8")


GUIDE_NETWORK = """class NeuralNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10), nn.ReLU())

    def forward(self, x):
        return self.linear_relu_stack(self.flatten(x))
"""


def test_the_guides_network_on_images_names_the_layer_the_sizes_and_the_line_to_write(say: Say, tmp_path: Path) -> None:
    write_model(tmp_path / "net.py", GUIDE_NETWORK)
    said = say("train", "net.py:NeuralNetwork", "digits")
    assert 'layer "linear_relu_stack.0" (Linear) expects 6 features, the batch has 64 (1×8×8 flattened)' in said
    assert "Write Linear(64, 8) there" in said
    assert not (tmp_path / "runs").exists()  # nothing is left behind by a mistake


def test_a_relu_on_the_logits_is_said_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "net.py", GUIDE_NETWORK.replace("6, 8", "64, 8"))
    with pytest.raises(SystemExit):
        main(["train", "net.py:NeuralNetwork", "digits", "--epochs", "1"])
    said = capsys.readouterr()
    assert 'ends in ReLU (layer "linear_relu_stack.3"), on the logits' in " ".join((said.out + said.err).split())


def test_a_linear_layer_on_unflattened_images_is_told_to_flatten(say: Say, tmp_path: Path) -> None:
    write_model(
        tmp_path / "net.py", "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(100, 10)\n"
    )
    said = say("train", "net.py:Net", "digits")
    assert "expects 100 features, but it gets whole images: (2, 1, 8, 8) float32" in said
    assert "nn.Flatten()" in said


def test_a_convolution_for_colour_on_grey_images_names_both_channel_counts(say: Say, tmp_path: Path) -> None:
    write_model(tmp_path / "net.py", "def Net():\n    pass\n\n\nclass Colour(nn.Sequential):\n    def __init__(self):\n"
                "        super().__init__(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n")  # fmt: skip
    said = say("train", "net.py:Colour", "digits")
    assert 'layer "0" (Conv2d) expects 3 channels, the batch has 1' in said
    assert "Conv2d(1, 8, …)" in said


def test_a_failing_line_in_forward_is_shown(say: Say, tmp_path: Path) -> None:
    write_model(tmp_path / "net.py", "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
                "        self.last = nn.Linear(784, 10)\n\n    def forward(self, x):\n        x = x.view(-1, 784)\n        return self.last(x)\n")  # fmt: skip
    said = say("train", "net.py:Net", "digits")
    assert "Net.forward failed on (2, 1, 8, 8) float32" in said
    assert "net.py, line 11: x = x.view(-1, 784)" in said


def test_too_few_outputs_are_named_beside_the_number_of_classes(say: Say, tmp_path: Path) -> None:
    write_model(
        tmp_path / "net.py",
        "class Net(nn.Sequential):\n    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(64, 5))\n",
    )
    said = say("train", "net.py:Net", "digits")
    assert "gives 5 outputs, for labels 0 to 4, but the data has 10 classes (labels 0 to 9)" in said


def test_labels_outside_the_classes_name_the_first_offender(say: Say, tmp_path: Path) -> None:
    write_npz(tmp_path / "d.npz", np.zeros((40, 6), np.float32), np.array([-1, 1] * 20))
    said = say("train", "mlp", "d.npz")
    assert "labels must be 0 to 1 (2 classes), but they run from -1 to 1" in said
    assert "label -1" in said


def test_float_labels_for_cross_entropy_say_how_to_convert_them(say: Say, tmp_path: Path) -> None:
    write_npz(tmp_path / "d.npz", np.zeros((40, 6), np.float32), np.array([0.0, 1.0] * 20, np.float32))
    said = say("train", "mlp", "d.npz", "--loss", "cross-entropy")
    assert "CrossEntropyLoss needs class numbers (whole numbers, int64), but the targets are float32" in said
    assert 'y.astype("int64")' in said


def test_one_class_only_is_named(say: Say, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["cat"] * 40)
    assert '"cat"' in say("train", "mlp", "t.csv", "--target", "kind")


def test_nan_in_the_data_names_sample_and_column(say: Say, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    x[17, 3] = np.nan
    write_npz(tmp_path / "d.npz", x, np.arange(40) % 2)
    said = say("train", "mlp", "d.npz", "--test-fraction", "0")
    assert "1 of 40 samples have features that are not numbers; the first is sample 17, value 3: nan" in said


def test_an_empty_split_is_named(say: Say, tmp_path: Path) -> None:
    write_npz(tmp_path / "d.npz", np.zeros((0, 6), np.float32), np.zeros(0, np.int64))
    assert "train split has no samples" in say("train", "mlp", "d.npz")


def test_a_batch_larger_than_the_data_is_said_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "t.csv", ["cat", "dog"] * 15)
    with pytest.raises(SystemExit) as left:
        main(["train", "mlp", "t.csv", "--target", "kind", "--hidden", "8", "--epochs", "1"])
    assert left.value.code in (0, None)
    said = " ".join(capsys.readouterr().out.split())
    assert "The batch size (64) is larger than the training split (24 samples): every epoch is one step." in said


def test_an_unreadable_image_is_named_and_skip_bad_goes_on(say: Say, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos" / "dog" / "7.png").write_bytes(b"no picture at all")
    said = say("train", "mlp", "photos")
    assert str(Path("dog") / "7.png") in said
    assert "--skip-bad" in said
    say("train", "mlp", "photos", "--skip-bad", "--epochs", "1", "--hidden", "8", code=0)


def test_a_missing_target_column_gets_the_nearest_name(say: Say, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["cat", "dog"] * 20)
    said = say("train", "mlp", "t.csv", "--target", "kinds")
    assert '"kinds"' in said
    assert 'Did you mean "kind"?' in said
    assert "kind" in say("train", "mlp", "t.csv")  # none given: the columns are listed


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("train", "mpl", "digits"), "mlp"),
        (("train", "mlp", "fashion-minst"), "fashion-mnist"),
        (("train", "mlp", "digits", "--optimizer", "AdmaW"), "AdamW"),
        (("train", "mlp", "digits", "--loss", "cross-entrpy"), "cross-entropy"),
        (("train", "mlp", "digits", "--schedule", "cosin"), "cosine"),
        (("train", "mlp", "digits", "--optimizer-arg", "momentun=0.9", "--optimizer", "SGD"), "momentum"),
        (("train", "mlp", "digits", "--model-arg", "hiden=8"), "hidden"),
        (("train", "mlp", "digits", "--normalize", "unti"), "unit"),
        (("train", "mlp", "digits", "--precision", "float23"), "float32"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(say: Say, arguments: tuple[str, ...], suggestion: str) -> None:
    assert f'Did you mean "{suggestion}"?' in say(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eject", "train.py"), 'RUN is a run: its folder, its name or a part of it, or "latest". RUN comes first'),
        (("serve", "train.py"), "RUN comes first"),
        (("serve", "t.csv"), "RUN comes first"),
        (("test", "t.csv"), "RUN comes first"),
        (("serve", "latest", "--write", "podman", "d"), "--write KIND must be one of docker"),
        (("serve", "latest", "--write", "docker"), "Write: --write KIND DIR"),
        (("tune", "mlp", "digits", "--trials", "0"), "Give 1 or more, or leave trials out."),
        (("tune", "mlp", "digits", "--jobs", "0"), "Give 1 or more, or leave jobs out."),
        (("tune", "mlp", "digits", "--hours", "-1"), "Give a number above 0, or leave hours out."),
        (("train", "mlp", "digits", "--processes", "0"), "Give 1 or more, or leave processes out."),
        (("train", "mlp", "t.csv", "--window", "0"), "Give 1 or more, or leave window out."),
        (("train", "mlp", "t.csv", "--horizon", "0"), "Give 1 or more, or leave horizon out."),
        (("tune", "mlp", "digits", "--space", "none.toml"), "none.toml: there is no such file. Check the path"),
        (("tune", "digits"), "the model comes first. For example: rushlight tune mlp digits"),
        (("tune", "mpl", "digits"), 'Did you mean "mlp"?'),
        (("tune", "net.py", "digits"), "Name the class after a colon: net.py:Net"),
        (("train", "linear", "digits", "--window", "6"), "window (6) is for tables, and this data is of another kind"),
        (("train", "linear", "t.csv", "--window", "6"), "window without time_column"),
    ],
)
def test_what_a_newcomer_types_is_answered_with_what_to_type(
    say: Say, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    write_csv(tmp_path / "t.csv", ["cat", "dog"] * 15)
    (tmp_path / "runs" / "a-run").mkdir(parents=True)
    (tmp_path / "runs" / "a-run" / "recipe.json").write_text("{}")
    assert words in say(*arguments)


def test_a_missing_package_is_named_with_a_line_that_installs_it() -> None:
    """The extras of pyproject.toml, by their packages: this project is in no index."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {
        name: {re.split("[<>=]", each)[0] for each in packages}
        for name, packages in project["optional-dependencies"].items()
    }
    for key, extra in (
        ("polars-missing", "table"), ("optuna-missing", "tune"), ("serve-missing", "serve"), ("serve-missing-grpc", "grpc"), ("tensorboard-missing", "tensorboard"),
    ):  # fmt: skip
        advice = UsageError(key, package="").advice
        assert set(advice.partition("pip install ")[2].partition(".")[0].split()) == extras[extra]


@pytest.mark.parametrize("package", ["orjson", "httptools", "onnxruntime"])
def test_a_server_without_a_package_names_it_with_the_line_that_installs_it(package: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from rushlight.cli import main; main()"
    workers = ["--workers", "2"] if package == "httptools" else []
    bundle = Path(__file__).parents[1] / "serve" / "bundles" / "image"
    done = run_python(["-c", code, "serve", bundle, "--port", "0", *workers], cwd=tmp_path)
    assert done.returncode == 2
    assert f"This needs the package {package}, which is not installed." in done.stderr
    assert "pip install" in done.stderr


def test_a_file_of_the_users_own_is_replaced_only_when_told_to(say: Say, tmp_path: Path) -> None:
    """Ours are known as long as nobody changes them; a folder is no file, and a file no folder."""
    run = rushlight.train("linear", "digits", epochs=1, quiet=True, name="r", runs=tmp_path / "runs")
    (run.folder / "report.json").unlink()  # else each page starts a process that reads the samples
    commands = {
        "mine.py": ("eject", "r", "mine.py"),
        "model.pth": ("save", "r", "model.pth"),
        "mine.html": ("board", "runs/r", "--export", "mine.html"),
        "mine.png": ("data", "digits", "--sheet", "mine.png"),
    }
    for name, command in commands.items():
        path = tmp_path / name
        path.write_text("my own")
        said = say(*command)
        assert f"{name} is there already: Rushlight did not write it, or it was changed since." in said
        assert "--force" in said
        assert path.read_text() == "my own"
        say(*command, "--force", code=0)
        say(*command, code=0)  # it is ours now
        with path.open("a") as file:
            file.write("# mine now")
        assert "--force" in say(*command)
        (tmp_path / f"folder{path.suffix}").mkdir()
        assert "is a folder, and a file is to be written" in say(*command[:-1], f"folder{path.suffix}")
    assert "mine.py is a file, and a folder is needed there." in say(
        "train", "linear", "digits", "--runs", "mine.py", code=1
    )


def test_a_model_file_with_a_syntax_error_has_its_line_shown(say: Say, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\n\nclass Net(nn.Module)\n    pass\n")
    said = say("train", "net.py:Net", "digits")
    assert "net.py, line 3: expected ':' class Net(nn.Module) ^" in said


def test_a_loss_that_becomes_nan_names_step_samples_kept_state_and_causes(say: Say, tmp_path: Path) -> None:
    said = say("train", "mlp", "digits", "--optimizer", "SGD", "--lr", "1e30", "--hidden", "16", code=1)
    assert "The loss became" in said
    assert "at step" in said
    assert "samples" in said
    assert "No step was saved before it." in said
    assert "learning rate is too high" in said


def test_a_runs_folder_that_is_a_file_is_named(say: Say, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("I am a file")
    said = say("train", "mlp", "digits", "--runs", "taken/runs", code=1)
    assert "taken" in said
    assert "--runs FOLDER" in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no user ids")
def test_no_permission_for_runs_says_where_and_what_to_do(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    is_root = os.geteuid() == 0
    code = (
        "import os\nfrom rushlight.errors import StorageError\nfrom rushlight.runs.folder import create_run\nfrom pathlib import Path\n"
        + ("os.setgid(65534); os.setuid(65534)\n" if is_root else "") +
        f"try:\n    create_run(Path({str(locked / 'runs')!r}), 'mlp', 'digits')\n"
        "except StorageError as error:\n    print(error)\n"
    )  # fmt: skip
    for folder in (tmp_path, *tmp_path.parents):
        if is_root and folder.stat().st_uid == 0 and "pytest" in str(folder):
            folder.chmod(0o755)  # so that the other user reaches the locked folder at all
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "may not write" in done.stdout, done.stderr
    assert "--runs" in done.stdout


@pytest.mark.slow
def test_a_full_disk_says_where_and_that_nothing_is_lost(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("a small file system can be mounted here by root only")
    try:
        command = [
            sys.executable,
            "-m",
            "rushlight",
            "train",
            "mlp",
            "digits",
            "--epochs",
            "1",
            "--runs",
            str(mount / "runs"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    assert done.returncode == 1, done.stderr
    assert "there is no space left on this disk" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_unexpected_error_is_short_and_traceback_shows_all(say: Say, tmp_path: Path) -> None:
    write_model(
        tmp_path / "net.py", "class Net(nn.Sequential):\n    def __init__(self):\n        raise KeyError('gone')\n"
    )
    said = say("train", "net.py:Net", "digits")
    assert "KeyError: 'gone'" in said
    assert "net.py, line 7" in said


def test_a_name_missing_in_forward_is_shown_with_its_line(say: Say, tmp_path: Path) -> None:
    write_model(tmp_path / "net.py", "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(64, 10)\n\n"
                "    def forward(self, x):\n        return super().forward(tourch.flatten(x, 1))\n")  # fmt: skip
    said = say("train", "net.py:Net", "digits")
    assert "NameError: name 'tourch' is not defined" in said
    assert "net.py, line 10: return super().forward(tourch.flatten(x, 1))" in said


def test_a_file_without_its_class_and_a_dataset_as_model_are_understood(say: Say, tmp_path: Path) -> None:
    write_model(tmp_path / "net.py", GUIDE_NETWORK)
    assert "Name the class after a colon: net.py:Net" in say("train", "net.py", "digits")
    assert "rushlight train mlp digits" in say("train", "digits")


def test_a_contact_sheet_replaces_no_source_file(say: Say, tmp_path: Path) -> None:
    write_model(tmp_path / "net.py", GUIDE_NETWORK)
    before = (tmp_path / "net.py").read_bytes()
    assert "written to a .png file" in say("data", "digits", "--sheet", "net.py")
    assert (tmp_path / "net.py").read_bytes() == before


def test_runs_beside_the_pictures_are_no_class_of_theirs(say: Say, tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("RGB", (8, 8), name).save(tmp_path / name / f"{number}.png")
    say("train", "linear", ".", "--epochs", "1", code=0)
    say("train", "linear", ".", "--epochs", "1", code=0)
    from rushlight.runs import list_runs, read_report

    newest = list_runs(Path("runs"))[0]
    assert [entry["name"] for entry in read_report(newest.folder)["classes"]] == ["blue", "red"]


def test_deleting_takes_a_whole_name_a_terminal_or_a_yes(say: Say, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "my-first-run"
    folder.mkdir(parents=True)
    for name in ("recipe.json", "history.jsonl"):
        (folder / name).write_text("{}")
    assert "rushlight runs --delete NAME" in say("runs", "--delete")
    assert "write: rushlight runs --delete my-first-run" in say("runs", "--delete", "latest", "--yes")
    assert "write: rushlight runs --delete my-first-run" in say("runs", "--delete", "first", "--yes")
    assert 'Did you mean "my-first-run"?' in say("runs", "--delete", "my-frist-run", "--yes")
    assert "add --yes" in say("runs", "--delete", "my-first-run")  # under pytest, nobody sits at standard input
    assert "two different things" in say("runs", "--delete", "--verify", "my-first-run", "--yes")
    assert folder.is_dir()
    say("runs", "--delete", "my-first-run", "--yes", code=0)
    assert not folder.exists()


def test_verifying_a_damaged_run_ends_with_exit_code_1(say: Say, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "my-first-run"
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{")
    say("runs", "--verify", code=1)
    say("runs", "--verify", "latest", code=1)
    assert "There is no run" in say("runs", "--verify", "zebra")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "mlp", "digits", "--runs", "s3://bucket/my runs"),
        ("tune", "mlp", "digits", "--runs", "s3://bucket/my runs"),
        ("train", "mlp", "digits", "--folds", "2", "--runs", "s3://bucket/my runs"),
        ("test", "latest", "--runs", "s3://bucket/my runs"),
        ("runs", "--runs", "s3://bucket/my runs"),
    ],
)
def test_an_address_in_place_of_a_folder_is_refused_and_nothing_is_made(
    say: Say, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    said = say(*arguments)
    assert "s3://bucket/my runs is an address, and a folder of this machine is needed." in said
    assert "--runs FOLDER" in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_saved_goes_to_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = rushlight.train("linear", "digits", max_steps=1, final_test=False, quiet=True, name="run")
    for path in ("gs://bucket/models/run", "gs://bucket/models/run.pth"):  # a bundle's folder, and a file
        with pytest.raises(UsageError, match=r"gs://bucket/models(/run)? is an address"):
            run.save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
