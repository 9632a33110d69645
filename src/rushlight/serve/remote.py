"""The Open Inference Protocol over gRPC, version 2: `inference.GRPCInferenceService`, and `grpc.health.v1.Health`.

The messages are those of https://github.com/kserve/open-inference-protocol (open_inference_grpc.proto, Apache-2.0) with the
repository's and the statistics' of Triton; their descriptors are made here, so that no generated file pins a version of protobuf.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from rushlight.errors import RushlightError, UsageError
from rushlight.serve import inference
from rushlight.serve.answers import Refusal
from rushlight.serve.app import Request, Service
from rushlight.serve.gate import has_token, identities_of
from rushlight.web import Scope, listening

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
TENSOR = "name:string datatype:string shape:int64* parameters:InferParameter% contents:InferTensorContents"
MESSAGES = {  # of each message its fields in the order of their numbers: name:type, * for repeated, % for a map from text
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool",
    "ModelReadyRequest": "name:string version:string",
    "ModelReadyResponse": "ready:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string version:string extensions:string*",
    "ModelMetadataRequest": "name:string version:string",
    "ModelMetadataResponse.TensorMetadata": "name:string datatype:string shape:int64*",
    "ModelMetadataResponse": "name:string versions:string* platform:string inputs:ModelMetadataResponse.TensorMetadata* "
    "outputs:ModelMetadataResponse.TensorMetadata* properties:string%",
    "InferParameter": "bool_param:bool| int64_param:int64| string_param:string| double_param:double| uint64_param:uint64|",
    "InferTensorContents": "bool_contents:bool* int_contents:int32* int64_contents:int64* uint_contents:uint32* "
    "uint64_contents:uint64* fp32_contents:float* fp64_contents:double* bytes_contents:bytes*",
    "ModelInferRequest.InferInputTensor": TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": "name:string parameters:InferParameter%",
    "ModelInferRequest": "model_name:string model_version:string id:string parameters:InferParameter% "
    "inputs:ModelInferRequest.InferInputTensor* outputs:ModelInferRequest.InferRequestedOutputTensor* raw_input_contents:bytes*",
    "ModelInferResponse.InferOutputTensor": TENSOR,
    "ModelInferResponse": "model_name:string model_version:string id:string parameters:InferParameter% "
    "outputs:ModelInferResponse.InferOutputTensor* raw_output_contents:bytes*",
    "ModelStatisticsRequest": "name:string version:string",
    "StatisticDuration": "count:uint64 ns:uint64",
    "InferStatistics": "success:StatisticDuration fail:StatisticDuration queue:StatisticDuration "
    "compute_input:StatisticDuration compute_infer:StatisticDuration compute_output:StatisticDuration",
    "ModelStatistics": "name:string version:string last_inference:uint64 inference_count:uint64 execution_count:uint64 "
    "inference_stats:InferStatistics",
    "ModelStatisticsResponse": "model_stats:ModelStatistics*",
    "RepositoryIndexRequest": "repository_name:string ready:bool",
    "RepositoryIndexResponse.ModelIndex": "name:string version:string state:string reason:string",
    "RepositoryIndexResponse": "models:RepositoryIndexResponse.ModelIndex*",
}
CONTENTS = {  # the field of InferTensorContents for each datatype
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
HEALTH_MESSAGES = {"HealthCheckRequest": "service:string", "HealthCheckResponse": "status:int32"}  # an enum is an int32
SERVING, NOT_SERVING = 1, 2
STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 413: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED", 500: "INTERNAL",
}  # fmt: skip
MOST_CALLS, MOST_MESSAGE = 128, 4 << 20  # at a time, and bytes of each: together as much as bodies of HTTP may hold


def messages(package: str, described: dict[str, str]) -> dict[str, Any]:
    """Return the classes of messages by name, made from their descriptions."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name=f"rushlight/{package}.proto", package=package, syntax="proto3")
    made: dict[str, Any] = {}
    for name in sorted(described, key=lambda name: name.count(".")):
        outer, _, inner = name.rpartition(".")
        message = made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
        for number, part in enumerate(described[name].split(), 1):
            label, kind = part.rstrip("*%|").split(":")
            field = message.field.add(name=label, number=number, label=1)
            if part.endswith("%"):
                entry = message.nested_type.add(name=label.title().replace("_", "") + "Entry")
                entry.options.map_entry = True
                set_type(entry.field.add(name="key", number=1, label=1), "string", package)
                set_type(entry.field.add(name="value", number=2, label=1), kind, package)
                kind = f"{name}.{entry.name}"
            if part.endswith("|"):
                if not message.oneof_decl:
                    message.oneof_decl.add(name="parameter_choice")
                field.oneof_index = 0
            field.label = 3 if part.endswith(("*", "%")) else 1
            set_type(field, kind, package)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in described
    }


def set_type(field: Any, kind: str, package: str) -> None:
    """Give a field's descriptor its type."""
    known = {
        "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13,
    }  # fmt: skip
    field.type = known.get(kind, 11)
    if kind not in known:
        field.type_name = f".{package}.{kind}"


async def start(service: Service, host: str, port: int) -> tuple[Any, int]:
    """Listen, and return the server and its port. UsageError without the extra `grpc`, and where the port is in use.

    Several workers listen on one port, which their parent has found free, and the system shares calls among them.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import google.protobuf  # noqa: F401
        import grpc
    except ImportError as error:
        raise UsageError("serve-missing-grpc", package=error.name or "grpcio") from error
    is_shared = service.settings.workers > 1
    most = min(service.settings.most_bytes, MOST_MESSAGE)
    options = [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", int(is_shared)),
               ("grpc.max_metadata_size", 16 << 10)]  # fmt: skip
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MOST_CALLS)
    remote = Remote(service, grpc)
    for name, own, made in ((INFERENCE, remote.calls, remote.made), (HEALTH, {"Check": remote.check}, remote.health)):
        handlers = {}
        for call, answer in own.items():
            kind = "HealthCheck" if call == "Check" else call
            handlers[call] = grpc.unary_unary_rpc_method_handler(
                remote.guarded(f"/{name}/{call}", answer),
                request_deserializer=made[f"{kind}Request"].FromString,
                response_serializer=made[f"{kind}Response"].SerializeToString,
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    if not is_shared:  # else it would bind another port than one that there is not, and say little
        with listening(port, port, host.strip("[]")):
            pass
    port = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server, port


class Remote:
    """The calls, each on the registry that HTTP is answered from."""

    def __init__(self, service: Service, grpc: Any) -> None:
        self.service, self.registry, self.grpc = service, service.registry, grpc
        self.made, self.health = messages("inference", MESSAGES), messages("grpc.health.v1", HEALTH_MESSAGES)
        self.calls: dict[str, Callable[[Any, Request, Any], Any]] = {
            "ServerLive": lambda asked, request, context: {"live": True},
            "ServerReady": lambda asked, request, context: {"ready": self.is_ready(request)},
            "ModelReady": lambda asked, request, context: {"ready": self.is_ready(self.chosen(asked.name, asked.version, request))},
            "ServerMetadata": lambda asked, request, context: inference.SERVER,
            "ModelMetadata": self.metadata,
            "ModelInfer": self.infer,
            "ModelStatistics": self.statistics,
            "RepositoryIndex": lambda asked, request, context: {"models": self.registry.state()},
        }  # fmt: skip

    def guarded(self, path: str, answer: Callable[[Any, Request, Any], Any]) -> Callable[[Any, Any], Awaitable[Any]]:
        """Return a call that asks for the token, answers errors by their status, and is counted as HTTP is."""
        name = path.rpartition("/")[2]
        made = self.health["HealthCheckResponse"] if name == "Check" else self.made[f"{name}Response"]
        is_open = name in ("Check", "ServerLive", "ServerReady", "ModelReady")

        async def call(asked: Any, context: Any) -> Any:
            headers = {
                str(key): [value if isinstance(value, str) else ""]
                for key, value in context.invocation_metadata() or ()
            }
            scope: Scope = {
                "path": path, "method": "POST", "rushlight.headers": headers, "rushlight.arrived": time.perf_counter(),
                "query_string": b"", "client": (context.peer(),),
            }  # fmt: skip
            status, token = 200, self.service.settings.token
            try:
                if token is not None and not is_open and not has_token(headers, token):
                    raise Refusal(401, "serve-token")
                found = answer(asked, Request(scope, never), context)
                return made(**(await found if isinstance(found, Awaitable) else found))
            except Exception as error:
                status = self.service.refused(path, error).status
                problem = error.problem if isinstance(error, RushlightError) else ""
                await context.abort(getattr(self.grpc.StatusCode, STATUSES.get(status, "INTERNAL")), str(problem))
            finally:
                self.service.app.note(scope, status, identities_of(headers))

        return call

    def chosen(self, name: str, version: str, request: Request) -> Request:
        """Give a request the version that it is for."""
        request.chosen = self.registry.find(name, version, self.service.sticky(request, name))
        return request

    def is_ready(self, request: Request) -> bool:
        """Tell whether the models answer."""
        try:
            return bool(self.service.ready(request))
        except Refusal:
            return False

    def check(self, asked: Any, request: Request, context: Any) -> dict[str, Any]:
        """Answer the health protocol; a service other than these is not found."""
        if asked.service not in ("", INFERENCE, HEALTH):
            raise Refusal(404, "serve-no-address")
        return {"status": SERVING if self.is_ready(request) else NOT_SERVING}

    def metadata(self, asked: Any, request: Request, context: Any) -> dict[str, Any]:
        """Return what a model takes and gives."""
        request = self.chosen(asked.name, asked.version, request)
        return inference.describe(request.model, self.service.versions(request))

    async def statistics(self, asked: Any, request: Request, context: Any) -> dict[str, Any]:
        """Return the figures of a model, or of all."""
        return await self.service.statistics(self.chosen(asked.name, asked.version, request) if asked.name else request)

    async def infer(self, asked: Any, request: Request, context: Any) -> dict[str, Any]:
        """Answer tensors with tensors, in the same words as over HTTP; outputs are raw bytes."""
        service, batcher = self.service, self.chosen(asked.model_name, asked.model_version, request).batcher
        request.scope["rushlight.totals"] = batcher.totals
        service.check_answers(batcher)
        read = inference.InferRequest(*content_of(asked), batcher.model, service.settings.most_rows)
        left = context.time_remaining()
        seconds = read.seconds(service.seconds(request))
        answers = await service.submit(request, read.inputs, read.rows, seconds if left is None else min(seconds, left))
        found = [(name, values, datatype) for name, values, datatype, _ in read.outputs(answers, batcher.model)]
        return {
            "model_name": batcher.model.name, "model_version": batcher.model.version, "id": asked.id,
            "outputs": [{"name": name, "datatype": datatype, "shape": values.shape} for name, values, datatype in found],
            "raw_output_contents": [inference.as_bytes(np.asarray(values)) for _, values, _ in found],
        }  # fmt: skip


def content_of(asked: Any) -> tuple[dict[str, Any], bytes]:
    """Return a request as REST has it: its JSON, and the bytes after it."""
    raw, inputs = asked.raw_input_contents, []
    if raw and len(raw) != len(asked.inputs):
        raise Refusal(400, "serve-raw-contents", expected=len(asked.inputs), found=len(raw))
    for place, tensor in enumerate(asked.inputs):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": [*tensor.shape]}
        if raw:
            entry["parameters"] = {"binary_data_size": len(raw[place])}
        else:
            entry["data"] = [*getattr(tensor.contents, CONTENTS.get(tensor.datatype, "bytes_contents"))]
        inputs.append(entry)
    outputs = [{"name": output.name, "parameters": parameters(output.parameters)} for output in asked.outputs]
    content = {"inputs": inputs, "outputs": outputs, "parameters": parameters(asked.parameters)}
    return inference.checked_request(content), b"".join(raw)


def parameters(given: Any) -> dict[str, Any]:
    """Return parameters by name."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in given.items()
    }


async def never() -> Any:
    """Wait: gRPC itself cancels the call of a client that leaves."""
    await asyncio.Event().wait()
