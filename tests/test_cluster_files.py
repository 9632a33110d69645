"""The files of the pages about clusters: what they are for takes them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.test_docs import blocks

from rushlight.cli.app import app
from rushlight.cluster import threads_each

SCHEMA = Path(__file__).with_name("rayjob.yaml")
PAGES = ("docs/how-to/", "docs/zh/how-to/")


def faults(value: Any, schema: dict[str, Any], place: str = "job") -> list[str]:
    """Return what is wrong with a value by Kubernetes' kind of schema; a field that it does not know is."""
    if schema.get("x-kubernetes-int-or-string"):
        return (
            []
            if isinstance(value, (int, str)) and re.search(schema.get("pattern", ""), str(value))
            else [f"{place} is {value!r}"]
        )
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, kinds.get(schema.get("type", ""), object)):
        return [f"{place} is no {schema['type']}"]
    found = [] if value in schema.get("enum", [value]) else [f"{place} is {value!r}"]
    if isinstance(value, list):
        return found + [
            each for n, entry in enumerate(value) for each in faults(entry, schema["items"], f"{place}[{n}]")
        ]
    if isinstance(value, dict):
        known, others = schema.get("properties"), schema.get("additionalProperties")
        found += [f"{place} lacks {name}" for name in schema.get("required", []) if name not in value]
        for name, entry in value.items():
            if known is not None and name not in known:
                found.append(f"{place} has no field {name}")
            else:
                found += faults(entry, (known or {}).get(name, others or {}), f"{place}.{name}")
    return found


def rayjob(page: str) -> Any:
    """Return the RayJob of a page."""
    return yaml.safe_load(next(block.text for block in blocks(page) if block.language == "yaml"))


@pytest.mark.parametrize("folder", PAGES)
def test_the_rayjob_of_the_page_is_what_kuberay_takes(folder: str) -> None:
    job = rayjob(f"{folder}cluster.md")
    schema = yaml.safe_load(SCHEMA.read_text("utf-8"))
    assert faults(job, schema) == []
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        claims = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]} == claims
    workers = cluster["workerGroupSpecs"][0]
    cores = [int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])] * workers["replicas"]
    words = job["spec"]["entrypoint"].partition("rushlight train ")[2].rstrip('"').split()
    given = command("train").make_context("train", words).params
    assert (given["ray"], given["resume"]) == ("auto", True)
    assert sum(count // threads_each(cores, given["processes"]) for count in cores) >= given["processes"]


def test_what_is_wrong_with_a_rayjob_is_found() -> None:
    schema = yaml.safe_load(SCHEMA.read_text("utf-8"))
    job = rayjob("docs/how-to/cluster.md")
    worker = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    job["spec"]["rayClusterSpecs"] = worker["replicas"] = "2"
    worker["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "four"
    del worker["groupName"], worker["template"]["spec"]["containers"][0]["name"]
    assert sorted(line.rpartition(".")[2] for line in faults(job, schema)) == [
        "containers[0] lacks name", "cpu is 'four'", "replicas is no integer", "spec has no field rayClusterSpecs", "workerGroupSpecs[0] lacks groupName",
    ]  # fmt: skip


def command(name: str) -> Any:
    """Return a command of `rushlight`."""
    import typer

    return typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("folder", PAGES)
def test_the_slurm_script_is_one_and_its_command_is_ours(folder: str) -> None:
    script = next(block.text for block in blocks(f"{folder}processes.md") if "#SBATCH" in block.text)
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"  # what stands before the first command is read by sbatch, and nothing after it
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(number < first for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    stub = 'srun() { printf "%s\\n" "$@"; }; scontrol() { echo node1; echo node2; }; SLURM_JOB_ID=7 SLURM_NNODES=2 SLURM_JOB_NODELIST=node[1-2]\n'
    told = subprocess.run(
        ["bash", "-eu"], input=stub + script, text=True, capture_output=True, check=True
    ).stdout.split()
    assert told[told.index("--rdzv-endpoint") + 1] == "node1:29500"
    given = command("train").make_context("train", told[told.index("train") + 1 :]).params
    assert (given["name"], given["resume"], str(given["runs"])) == ("job-7", True, "/shared/runs")
