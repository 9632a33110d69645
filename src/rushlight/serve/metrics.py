"""What a server counts, for Prometheus: its own figures, and the names that Triton's and TorchServe's dashboards read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from rushlight.serve.batcher import Batcher

BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FACES = (  # the first that a path begins with names the protocol
    ("/v2/", "inference"), ("/v1/", "tensorflow"), ("/predictions/", "torchserve"), ("/invocations", "sagemaker"),
    ("/predict", "rushlight"),
)  # fmt: skip


disable_created_metrics()  # type: ignore[no-untyped-call]  # a line more for each figure, which no dashboard reads


class Meter:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(*with_words("rushlight_requests"), ["protocol", "status"], registry=self.registry)
        self.latency = self.histogram("rushlight_request_seconds", BUCKETS)  # from arrival to answer
        self.queue = self.histogram("rushlight_queue_seconds", BUCKETS)  # from arrival to the batch
        self.compute = self.histogram("rushlight_batch_seconds", BUCKETS)
        self.batches = self.histogram("rushlight_batch_rows", (1, 2, 4, 8, 16, 32, 64, 128))
        self.ready = Gauge(*with_words("rushlight_ready"), registry=self.registry)
        self.totals = dict.fromkeys(("ok", "failed", "rows", "batches", "request", "queue", "compute"), 0.0)
        self.statuses = dict.fromkeys(("2XX", "4XX", "5XX"), 0)

    def histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        """Return a histogram of this server."""
        return Histogram(*with_words(name), buckets=buckets, registry=self.registry)

    def watch(self, batcher: Batcher) -> None:
        """Count for the model of a queue, under its name."""
        self.batcher = batcher
        waiting = Gauge(*with_words("rushlight_waiting_rows"), registry=self.registry)
        waiting.set_function(lambda: batcher.waiting_rows)
        self.registry.register(self)

    def answered(self, scope: Any, status: int, seconds: float) -> None:
        """Count one answer."""
        protocol = next((name for start, name in FACES if scope["path"].startswith(start)), "other")
        self.requests.labels(protocol, str(status)).inc()
        self.latency.observe(seconds)
        self.statuses[f"{min(max(status // 100, 2), 5)}XX".replace("3", "2")] += 1
        if protocol != "other" and scope["method"] == "POST":
            self.totals["ok" if status < 400 else "failed"] += 1
            self.totals["request"] += seconds

    def executed(self, rows: int, seconds: float, queued: float) -> None:
        """Count one batch, whose requests waited `queued` seconds together."""
        self.batches.observe(rows)
        self.compute.observe(seconds)
        self.queue.observe(queued)
        for name, value in (("rows", rows), ("batches", 1), ("queue", queued), ("compute", seconds)):
            self.totals[name] += value

    def collect(self) -> Iterator[Any]:
        """Give Prometheus the figures under the names of Triton and of TorchServe."""
        totals, own = self.totals, {"model": self.batcher.model.name, "version": self.batcher.model.version}
        triton = {
            "nv_inference_request_success": "ok", "nv_inference_request_failure": "failed", "nv_inference_count": "rows",
            "nv_inference_exec_count": "batches", "nv_inference_request_duration_us": "request",
            "nv_inference_queue_duration_us": "queue", "nv_inference_compute_infer_duration_us": "compute",
        }  # fmt: skip
        serve = {
            "ts_inference_requests_total": "ok", "ts_inference_latency_microseconds": "request",
            "ts_queue_latency_microseconds": "queue",
        }  # fmt: skip
        for names, labels in ((triton, own), (serve, {"model_name": own["model"], "model_version": own["version"]})):
            for name, total in names.items():
                factor = 1e6 if name.endswith(("_us", "microseconds")) else 1
                family = CounterMetricFamily(*with_words(name), labels=list(labels))
                family.add_metric(list(labels.values()), totals[total] * factor)
                yield family
        waiting = GaugeMetricFamily(*with_words("nv_inference_pending_request_count"), labels=list(own))
        waiting.add_metric(list(own.values()), len(self.batcher.waiting))
        yield waiting
        for name, count in self.statuses.items():
            family = CounterMetricFamily(*with_words(f"Requests{name}"), labels=["Level"])
            family.add_metric(["Host"], count)
            yield family

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        # prometheus-client ends counters in _total, which those whose names others chose have not
        return re.sub(
            rb"(?m)^((?:# (?:HELP|TYPE) )?(?:nv_|Requests|ts_inference_latency|ts_queue)\w+?)_total\b",
            rb"\1",
            generate_latest(self.registry),
        )


def with_words(name: str) -> tuple[str, str]:
    """Return a name, and the words in it for Prometheus' help."""
    return name, name.replace("_", " ")
