from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.processes import Process

from rushlight.runs import list_runs, lock_run, verify_run
from rushlight.runs.verify import CheckedFile, RunVerification

RECIPE = {
    "model": {"name": "mlp"}, "data": {"name": "digits"}, "loss": {"name": "CrossEntropyLoss"},
    "optimizer": {"name": "SGD"}, "schedule": {"name": "constant"}, "epochs": 3, "early_stopping": None,
}  # fmt: skip
ENVIRONMENT = {"rushlight": "0.1.0", "torch": "2.13.0", "device": "cpu", "data_notes": []}
LATEST = "checkpoints/00000030"


def line(**content: Any) -> bytes:
    return json.dumps({"time": 100.0, **content}).encode() + b"\n"


def epoch(number: int) -> bytes:
    return line(kind="epoch", epoch=number, step=10 * number, train_loss=0.5, test={"n": 9, "loss": 0.4}, seconds=1.0)


def write_checkpoint(run: Path, name: str, history: bytes, losses: int, version: int = 3) -> None:
    """A checkpoint of format 3; the tensors are any bytes here, as they are to who checks them."""
    folder = run / "checkpoints" / name
    folder.mkdir(parents=True)
    state = {"format": version, "history_bytes": len(history), "losses_bytes": 4 * losses}
    contents = {"state.json": json.dumps(state).encode(), "state.safetensors": bytes(range(256)) * 4}
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {file}\n" for file, content in contents.items())
    (folder / "SHA256SUMS").write_text(sums, newline="\n")


def write_bundle(folder: Path) -> None:
    folder.mkdir()
    contents = {"weights.safetensors": b"weights" * 50, "examples.safetensors": b"examples" * 20}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    listed = {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()}
    (folder / "model.json").write_text(json.dumps({"format": "rushlight-bundle", "version": 1, "files": listed}))


def make_run(folder: Path, epochs: int = 3, is_finished: bool = True) -> Path:
    """A run of three epochs of ten steps, with a checkpoint after each of the last two that are done."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    history = line(kind="start", run=folder.name)
    for number in range(1, epochs + 1):
        history += epoch(number)
        if number > epochs - 2:
            write_checkpoint(folder, f"{10 * number:08d}", history, 10 * number)
    (folder / "losses.f32").write_bytes(struct.pack("<f", 0.5) * 10 * epochs)
    (folder / "history.jsonl").write_bytes(history)
    (folder / "sessions.jsonl").write_bytes(line(event="started", step=0))
    if is_finished:
        (folder / "history.jsonl").write_bytes(history + line(kind="event", event="finished", step=10 * epochs))
        (folder / "sessions.jsonl").write_bytes(line(event="started", step=0) + line(event="finished", step=30))
        write_bundle(folder / "model")
        (folder / "report.json").write_text('{"n": 9, "loss": 0.4}')
        with zipfile.ZipFile(folder / "predictions.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("truth.npy", bytes(1000))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    return make_run(tmp_path / "unfinished", epochs=2, is_finished=False)


def states(found: RunVerification) -> dict[str, str]:
    return {file.name: file.state for file in found.files}


def wrong(found: RunVerification) -> list[CheckedFile]:
    return [file for file in found.files if file.state in ("damaged", "missing")]


def checkpoints(found: RunVerification) -> list[CheckedFile]:
    return [file for file in found.files if file.name.startswith("checkpoints/")]


def flip(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def files_of(run: Path) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_finished_run_is_whole_and_verifying_changes_nothing(run: Path) -> None:
    before = files_of(run)
    found = verify_run(run)
    assert set(states(found).values()) == {"whole"}
    assert found.is_whole
    assert found.meaning == "Everything is whole."
    assert [file.name for file in checkpoints(found)] == ["checkpoints/00000020", "checkpoints/00000030"]
    assert sum(file.bytes for file in found.files) == sum(map(len, before.values()))
    assert files_of(run) == before


def test_an_unfinished_run_says_where_resume_goes_on(unfinished: Path) -> None:
    found = verify_run(unfinished)
    assert found.is_whole
    assert states(found)["model"] == "not yet"
    assert found.meaning == f"It can be resumed: rushlight resume {unfinished} goes on after step 20."


def test_a_flipped_bit_anywhere_in_a_checkpoint_and_in_the_bundles_tensors_is_found(run: Path) -> None:
    folders = [run / "checkpoints" / "00000030", run / "model"]
    paths = [path for folder in folders for path in folder.iterdir() if path.name != "model.json"]
    assert len(paths) == 5
    for path in paths:
        whole = path.read_bytes()
        for position in range(0, len(whole), 1 + len(whole) // 30):
            flip(path, position)
            assert states(verify_run(run))[path.parent.relative_to(run).as_posix()] == "damaged", (path, position)
            path.write_bytes(whole)
    assert verify_run(run).is_whole


@pytest.mark.parametrize("file", ["state.json", "state.safetensors", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [Path.unlink, flip, lambda path: os.truncate(path, 20)])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    unfinished: Path, file: str, damage: Callable[[Path], None]
) -> None:
    damage(unfinished / "checkpoints" / "00000020" / file)
    found = verify_run(unfinished)
    assert not found.is_whole
    assert states(found)["checkpoints/00000020"] == "damaged"
    assert file == "SHA256SUMS" or file in checkpoints(found)[-1].detail  # a wrong sum looks like a wrong file
    assert found.meaning == f"It can be resumed: rushlight resume {unfinished} goes on after step 10."


def test_an_older_damaged_checkpoint_does_not_keep_the_newest_from_being_used(run: Path) -> None:
    flip(run / "checkpoints" / "00000020" / "state.json")
    resumed = f"It can be resumed: rushlight resume {run} goes on after step 30."
    assert verify_run(run).meaning == f"{resumed} Its model is whole: rushlight predict {run / 'model'} FILE uses it."


def test_when_no_checkpoint_is_whole_the_model_still_is(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        (folder / "SHA256SUMS").unlink()
    said = verify_run(run).meaning
    assert said.startswith("It cannot be resumed: no checkpoint is whole. Its model is whole: rushlight predict ")
    shutil.rmtree(run / "checkpoints")
    found = verify_run(run)
    assert states(found)["checkpoints"] == "missing"
    assert "It cannot be resumed: no checkpoint is whole." in found.meaning


def test_checkpoints_that_cannot_be_looked_at_are_damage_of_that_run_alone(run: Path, unfinished: Path) -> None:
    for folder in (run, unfinished):
        shutil.rmtree(folder / "checkpoints")
        (folder / "checkpoints").symlink_to("checkpoints")  # a link to itself, which nobody can look into
        found = verify_run(folder)
        assert states(found)["checkpoints"] == "damaged"
        assert next(file.detail for file in wrong(found)).startswith("cannot be read: ")
        assert "It cannot be resumed: no checkpoint is whole." in found.meaning
    assert {summary.name: summary.status for summary in list_runs(run.parent)} == {
        "run": "finished",
        "unfinished": "unfinished",
    }


def test_checkpoints_of_a_newer_version_are_not_called_damaged(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    write_checkpoint(run, "00000030", b"", 0, version=5)
    found = verify_run(run)
    assert found.is_whole
    assert states(found)[LATEST] == "other version"


def test_a_newer_versions_checkpoint_is_not_passed_over_and_the_next_step_is_to_update(unfinished: Path) -> None:
    write_checkpoint(unfinished, "00000025", b"", 0, version=5)
    found = verify_run(unfinished)
    assert found.is_whole
    assert checkpoints(found)[-1].detail == "of format 5, this Rushlight reads format 4"
    update = "A newer Rushlight wrote its newest checkpoint: pip install --upgrade rushlight, then resume it."
    assert found.meaning == update
    write_checkpoint(unfinished, "00000027", b"", 0)
    flip(unfinished / "checkpoints" / "00000027" / "state.safetensors")
    assert verify_run(unfinished).meaning == update  # the damaged one is passed over, the newer version's is not


def test_a_history_of_zeros_is_not_enough_for_any_checkpoint(unfinished: Path) -> None:
    path = unfinished / "history.jsonl"
    path.write_bytes(bytes(path.stat().st_size))
    assert (
        verify_run(unfinished).meaning
        == "Put history.jsonl back from a copy of the run: until then it cannot be resumed."
    )


@pytest.mark.parametrize("entry", ["history_bytes", "losses_bytes", "format"])
@pytest.mark.parametrize("value", ["5", -1, [], None, 0.5])
def test_an_entry_of_another_kind_is_damage_where_the_checksums_are_made_right_again(
    unfinished: Path, entry: str, value: object
) -> None:
    folder = unfinished / "checkpoints" / "00000020"
    state = json.dumps(json.loads((folder / "state.json").read_bytes()) | {entry: value}).encode()
    before = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    (folder / "state.json").write_bytes(state)
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(sums.replace(before, hashlib.sha256(state).hexdigest()))
    found = verify_run(unfinished)
    assert wrong(found)[0].name == "checkpoints/00000020"
    assert wrong(found)[0].detail == f'cannot be read: it lacks "{entry}", or that is of another kind'
    assert "rushlight resume" in found.meaning


@pytest.mark.parametrize("digit", [b"2", b"7", b"1"])
def test_a_flipped_bit_in_the_number_of_the_format_is_damage(unfinished: Path, digit: bytes) -> None:
    path = unfinished / "checkpoints" / "00000020" / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 3', b'"format": ' + digit))
    assert states(verify_run(unfinished))["checkpoints/00000020"] == "damaged"


@pytest.mark.parametrize(
    ("file", "content", "detail"),
    [
        ("recipe.json", b"{", "cannot be read"),
        ("recipe.json", b"[]", "expected one JSON object"),
        ("recipe.json", b"{}", 'lacks "model"'),
        ("environment.json", b"\xff", "cannot be read"),
        ("report.json", b"nothing", "cannot be read"),
        ("predictions.npz", b"PK\x03\x04", "cannot be read"),
        ("model/model.json", b"{", "model.json cannot be read"),
        ("model/model.json", b'{"format": "rushlight-bundle", "version": 1, "files": {}}', "does not list weights"),
        ("sessions.jsonl", b"nonsense\n", "line 1"),
        ("history.jsonl", b"nonsense\n", "line 1: 'nonsense' is no JSON object"),
        ("history.jsonl", line(kind="start") + line(epoch=1), "line 2: "),
        ("history.jsonl", line(kind="start"), "when the newest checkpoint was made"),
        ("losses.f32", bytes(119), "has 119 bytes, and had 120 when the newest checkpoint was made"),
    ],
)
def test_damage_is_named_with_its_place(run: Path, file: str, content: bytes, detail: str) -> None:
    (run / file).write_bytes(content)
    found = verify_run(run)
    (damaged,) = wrong(found)
    assert (damaged.name, damaged.state) == (file.split("/")[0], "damaged")
    assert detail in damaged.detail
    assert found.meaning != "Everything is whole."


def test_a_flipped_bit_in_the_predictions_is_found(run: Path) -> None:
    with zipfile.ZipFile(run / "predictions.npz") as archive:
        start = archive.infolist()[0].header_offset + 30 + len("truth.npy")
    flip(run / "predictions.npz", start + 4)
    found = verify_run(run)
    assert states(found)["predictions.npz"] == "damaged"
    assert f"rushlight test {run} writes predictions.npz anew." in found.meaning


@pytest.mark.parametrize("name", ["recipe.json", "environment.json", "history.jsonl", "losses.f32", "model"])
def test_what_a_finished_run_must_have_is_missed(run: Path, name: str) -> None:
    shutil.rmtree(run / name) if name == "model" else (run / name).unlink()
    found = verify_run(run)
    assert states(found)[name] == "missing"
    assert not found.is_whole


def test_torn_ends_are_no_damage_for_the_next_start_repairs_them(unfinished: Path) -> None:
    for name in ("history.jsonl", "sessions.jsonl", "losses.f32"):
        with (unfinished / name).open("ab") as file:
            file.write(b'{"k')
    found = verify_run(unfinished)
    assert [states(found)[name] for name in ("history.jsonl", "sessions.jsonl", "losses.f32")] == ["whole"] * 3
    assert found.is_whole


def test_losses_that_a_power_cut_took_after_the_checkpoint_are_no_damage(unfinished: Path) -> None:
    with (unfinished / "history.jsonl").open("ab") as file:
        file.write(line(kind="steps", epoch=3, step=25))
    found = verify_run(unfinished)
    assert (states(found)["losses.f32"], found.is_whole) == ("whole", True)


def test_damage_behind_the_newest_checkpoint_does_not_keep_a_run_from_being_resumed(run: Path) -> None:
    whole = (run / "history.jsonl").read_bytes()
    (run / "history.jsonl").write_bytes(whole + b"nonsense\n")
    found = verify_run(run)
    assert [file.name for file in wrong(found)] == ["history.jsonl"]
    assert found.meaning.startswith(f"It can be resumed: rushlight resume {run} goes on after step 30.")
    (run / "history.jsonl").write_bytes(whole.replace(b'"epoch"', b"nonsense", 1))
    said = verify_run(run).meaning
    assert said.startswith("Put history.jsonl back from a copy of the run: until then it cannot be resumed.")
    assert "Its model is whole" in said


def test_what_is_left_of_the_losses_may_be_enough_for_an_older_checkpoint(run: Path) -> None:
    os.truncate(run / "losses.f32", 100)
    said = verify_run(run).meaning
    assert f"from an older checkpoint: rushlight resume {run} --checkpoint 20 goes back to step 20." in said
    os.truncate(run / "losses.f32", 76)
    assert "--checkpoint" not in verify_run(run).meaning


def test_a_moved_line_end_where_the_checkpoint_was_made_is_found(run: Path) -> None:
    whole = (run / "history.jsonl").read_bytes()
    (run / "history.jsonl").write_bytes(whole.replace(b"100.0", b"100", 1))
    assert states(verify_run(run))["history.jsonl"] == "damaged"


def test_a_damaged_bundle_is_written_anew_by_resume_unless_nothing_is_left_to_write_it_from(run: Path) -> None:
    flip(run / "model" / "weights.safetensors")
    resumed = f"It can be resumed: rushlight resume {run} goes on after step 30."
    assert verify_run(run).meaning == f"{resumed} Resuming it writes its model anew."
    shutil.rmtree(run / "checkpoints")
    assert verify_run(run).meaning == "It cannot be resumed: no checkpoint is whole."


def test_a_run_of_live_objects_is_gone_on_with_in_python(unfinished: Path) -> None:
    recipe = {**RECIPE, "model": {"class": "Net", "live": True}}
    (unfinished / "recipe.json").write_text(json.dumps(recipe))
    assert (
        f'rushlight.resume("{unfinished}", …), with the objects it was trained with,' in verify_run(unfinished).meaning
    )


def test_a_run_that_was_stopped_before_it_trained_has_nothing_yet_and_no_damage(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    found = verify_run(tmp_path)
    assert states(found) == {
        "recipe.json": "whole", "environment.json": "not yet", "history.jsonl": "not yet", "losses.f32": "not yet",
        "checkpoints": "not yet", "model": "not yet",
    }  # fmt: skip
    assert found.meaning == "It was stopped before it trained: start again with rushlight train."
    (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    assert verify_run(tmp_path).meaning == f"No checkpoint was written yet: rushlight resume {tmp_path} begins anew."


def test_a_run_in_use_is_said_to_be_and_half_written_things_are_no_damage(unfinished: Path) -> None:
    (unfinished / "checkpoints" / "00000030.0a1b2c3d.part").mkdir()
    with (unfinished / "history.jsonl").open("ab") as file:
        file.write(b'{"k')
    with lock_run(unfinished):
        found = verify_run(unfinished)
    assert f"It is in use by process {os.getpid()} on " in found.meaning
    assert set(states(found).values()) <= {"whole", "not yet"}


def test_checkpoints_that_come_and_go_while_they_are_read_are_no_damage(unfinished: Path) -> None:
    done = threading.Event()
    history = (unfinished / "history.jsonl").read_bytes()

    def work() -> None:
        """Do what training does: publish by rename, delete by rename."""
        for step in range(30, 100_000, 10):
            scratch = unfinished / "scratch"
            write_checkpoint(scratch, f"{step:08d}", history, 20)
            (scratch / "checkpoints" / f"{step:08d}").rename(unfinished / "checkpoints" / f"{step:08d}")
            old = unfinished / "checkpoints" / f"{step - 20:08d}"
            old.rename(old.with_suffix(".part"))
            shutil.rmtree(old.with_suffix(".part"))
            if done.is_set():
                return

    with lock_run(unfinished):
        thread = threading.Thread(target=work)
        thread.start()
        try:
            until = time.monotonic() + 1
            seen = set()
            while time.monotonic() < until:
                found = verify_run(unfinished)
                assert found.is_whole, wrong(found)
                seen |= {file.name for file in checkpoints(found)}
        finally:
            done.set()
            thread.join()
    assert len(seen) > 5


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_a_real_run_is_whole_while_it_trains_and_after_it_is_killed(tmp_path: Path) -> None:
    from rushlight.training.checkpoint import checkpoint

    command = ["-m", "rushlight", "train", "linear", "digits", "--epochs", "1000000", "--name", "long"]
    process, run = Process(command, cwd=tmp_path), tmp_path / "runs" / "long"
    try:
        until = time.monotonic() + 60
        while not checkpoint.list_checkpoints(run) and time.monotonic() < until:
            time.sleep(0.05)
        for _ in range(20):
            found = verify_run(run)
            assert found.is_whole, wrong(found)
            assert f"It is in use by process {process.pid} on " in found.meaning
    finally:
        process.kill()
        process.wait()
    found = verify_run(run)
    assert found.is_whole, wrong(found)
    assert [file.name for file in checkpoints(found)] == [
        f"checkpoints/{folder.name}" for folder in checkpoint.list_checkpoints(run)
    ]
    step, _ = checkpoint.age(checkpoint.latest_checkpoint(run))
    assert f"goes on after step {step:,}." in found.meaning


def test_verifying_imports_neither_torch_nor_numpy_nor_rich(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rushlight.runs import verify_run; verify_run(Path(sys.argv[1]))\n"
        "print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
