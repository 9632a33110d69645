"""The files with which a model is served elsewhere: they parse, hold what they promise, and are checked by whose they are."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import yaml
from tests.serve.client import BUNDLES

from rushlight.cli import main
from rushlight.errors import UsageError
from rushlight.serve import Settings, deploy, write_deployment
from rushlight.serve.deploy import KINDS


def written(kind: str, folder: Path, given: Path = BUNDLES / "image", **settings: Any) -> dict[str, str]:
    """Write a deployment of a bundle; return the texts by name, but for the archive."""
    chosen = Settings(**{"threads": 2, **settings})
    _, paths = write_deployment(kind, folder, str(given), Path("runs"), None, chosen, "en", lambda note: None)
    return {path.name: path.read_text("utf-8") for path in paths if path.suffix != ".gz"}


def test_a_container_is_pinned_and_not_root_and_its_server_needs_no_torch(tmp_path: Path) -> None:
    texts = written("docker", tmp_path)
    assert all("==" in line for line in texts["requirements.txt"].splitlines())
    assert not {"torch", "polars"} & {line.partition("==")[0] for line in texts["requirements.txt"].splitlines()}
    for line in ("USER 10001:10001", "STOPSIGNAL SIGTERM", "HEALTHCHECK", "COPY model model"):
        assert line in texts["Dockerfile"]
    assert (tmp_path / "model" / "graph.onnx").read_bytes() == (BUNDLES / "image" / "graph.onnx").read_bytes()
    first = (tmp_path / "rushlight.tar.gz").read_bytes()
    written("docker", tmp_path)
    assert first[10:] == (tmp_path / "rushlight.tar.gz").read_bytes()[10:]


def test_files_of_the_users_own_are_not_replaced(tmp_path: Path) -> None:
    for name in ("nginx.conf", "Dockerfile"):
        (tmp_path / name).write_text("my own")
    with pytest.raises(UsageError, match=r"nginx\.conf is there already"):
        written("nginx", tmp_path)
    assert (tmp_path / "nginx.conf").read_text() == "my own"
    (tmp_path / "nginx.conf").unlink()
    assert written("nginx", tmp_path) == written("nginx", tmp_path)


def test_limits_are_the_threads_and_every_container_drains_and_is_asked_how_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "package", lambda: b"")  # it takes a second, and is another test's
    texts = {kind: written(kind, tmp_path / kind, threads=3, drain=7) for kind in ("compose", "k8s", "kserve")}
    compose = yaml.safe_load(texts["compose"]["compose.yaml"])["services"]["image"]
    assert compose["deploy"]["resources"]["limits"]["cpus"] == "3"
    assert compose["stop_grace_period"] == "17s"
    deployment, service, budget = yaml.safe_load_all(texts["k8s"]["kubernetes.yaml"])
    pod = deployment["spec"]["template"]["spec"]
    runtime, inference = yaml.safe_load_all(texts["kserve"]["kserve.yaml"])
    for container in (pod["containers"][0], runtime["spec"]["containers"][0]):
        assert container["resources"]["limits"]["cpu"] == "3"
        assert container["args"][container["args"].index("--threads") + 1] == "3"
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {
            "name": "RUSHLIGHT_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "image", "key": "token"}},
        } in container["env"]
    assert pod["terminationGracePeriodSeconds"] == inference["spec"]["predictor"]["terminationGracePeriodSeconds"] == 17
    assert (service["kind"], budget["kind"]) == ("Service", "PodDisruptionBudget")
    assert inference["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]


@pytest.mark.parametrize("settings", [{"name": "a\nb"}, {"hosts": ("x\nkind: Secret",)}, {"hosts": ("{{ .Name }}",)}])
def test_a_line_break_in_a_field_is_refused_and_nothing_is_written(settings: dict[str, Any], tmp_path: Path) -> None:
    for kind in KINDS:
        with pytest.raises(UsageError, match="This can stand in no file"):
            written(kind, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'docker, compose.*Did you mean "kserve"'):
        written("kservee", tmp_path)


def test_systemd_takes_the_unit_also_from_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    folder = tmp_path / 'my "50 %" $HOME'
    (unit,) = written("systemd", folder)
    placed = shutil.copy(folder / unit, tmp_path / unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", placed], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    written("nginx", tmp_path)
    command = ["nginx", "-t", "-c", "nginx.conf", "-p", f"{tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_is_in_the_container_serves_where_there_is_no_torch(tmp_path: Path) -> None:
    written("docker", tmp_path)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "rushlight.tar.gz").read_bytes())) as archive:
        archive.extractall(tmp_path, filter="data")
    code = "import sys; sys.modules.update(dict.fromkeys('torch polars matplotlib plotext pooch onnx onnxscript jinja2'.split())); from rushlight.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "model", "--threads", "1", "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "RUSHLIGHT_LANGUAGE": "en"}, stdout=subprocess.PIPE, text=True
    ) as server:  # fmt: skip
        assert server.stdout is not None
        address = next(line.split()[-1] for line in server.stdout if "http://" in line)
        with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=30) as answer:
            assert answer.status == 200
        server.terminate()
        assert server.wait(60) == 0


@pytest.mark.slow
def test_the_ray_app_answers_as_predict_does_from_both_replicas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = pytest.importorskip("ray.serve", reason="needs the package ray (the extra ray)")
    import ray

    written("ray", tmp_path, threads=1, hosts=("models.example",))
    np.save(tmp_path / "asked.npy", safetensors.numpy.load_file(BUNDLES / "image" / "examples.safetensors")["inputs"])
    with pytest.raises(SystemExit):
        main(["predict", str(BUNDLES / "image"), str(tmp_path / "asked.npy"), "--json"])
    predicted = json.loads(capsys.readouterr().out)["predictions"]
    monkeypatch.setenv("RUSHLIGHT_TOKEN", "0123456789abcdef")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.syspath_prepend(tmp_path)

    def ask(path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        given = {"Authorization": "Bearer 0123456789abcdef", **headers}
        asked = urllib.request.Request(f"http://127.0.0.1:8000{path}", body, given)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        import ray_app

        serve.run(ray_app.app)  # once its replicas are healthy
        body = (tmp_path / "asked.npy").read_bytes()
        for _ in range(8):
            status, found = ask("/predict", body)
            assert status == 200, found
            for row, like in zip(found["predictions"], predicted, strict=True):
                assert row["label"] == like["label"]
                assert row["probabilities"] == pytest.approx(like["probabilities"], rel=1e-4)
        assert ask("/v2/models/image/ready", Host="models.example")[0] == 200
        assert ask("/v2/models/image/ready", Host="elsewhere.example")[0] == 403
        assert ask("/predict", body, Authorization="Bearer wrong")[0] == 401
        assert ask("/predict", b"\x93NUMPY broken")[0] == 400
    finally:
        serve.shutdown()
        ray.shutdown()
