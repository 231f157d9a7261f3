"""A router's trace as OpenTelemetry's spans."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VERSION = 1
SPANS_MAX = 1024
NAMES = {  # of OpenTelemetry's conventions for generative AI, where there are any
    "model": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}


class Malformed(Exception):
    """Not what docs/observability.md says."""


@dataclass(frozen=True, slots=True)
class SpanRow:
    name: str
    span_id: int
    parent: int  # 0: the caller's span, if there is one
    start_us: int  # since the request's arrival
    end_us: int
    attributes: dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Trace:
    service: str
    instance: str
    endpoint: str
    arrived_unix_us: int
    trace_id: int
    caller: int  # 0: none
    spans: list[SpanRow]


def read_trace(message: Any) -> Trace:
    """Of an unpacked message. Raises Malformed."""
    try:
        version, source, arrived_us, trace = message
        if version != VERSION or len(trace["spans"]) > SPANS_MAX:
            raise Malformed
        spans = [_span(*row) for row in trace["spans"]]
        read = Trace(
            str(source["service"]), str(source["instance"]), str(source["endpoint"]),
            int(arrived_us), int(trace["trace_id"], 16), int(trace["caller"] or "0", 16), spans)
    except (TypeError, ValueError, KeyError) as error:
        raise Malformed from error
    sizes = [read.trace_id >> 128, read.caller >> 64, *(span.span_id >> 64 for span in spans)]
    if not read.trace_id or any(sizes) or not all(span.span_id for span in spans):
        raise Malformed
    return read


def _span(name: Any, span_id: Any, parent: Any, start: Any, end: Any, attributes: Any) -> SpanRow:
    numbers = (span_id, parent, start, end)
    if not isinstance(name, str) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise Malformed
    values = {str(key): value for key, value in attributes.items()}
    if not all(isinstance(value, (str, int)) for value in values.values()):
        raise Malformed
    return SpanRow(name, span_id, parent, start, end, values)


def readable_spans(trace: Trace) -> Sequence[Any]:
    """ReadableSpan of the official SDK."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

    resource = Resource({"service.name": trace.service, "service.instance.id": trace.instance})
    scope = InstrumentationScope("chatloop")

    def context(span_id: int, remote: bool = False) -> Any:
        return SpanContext(trace.trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED))

    def parent(row: SpanRow) -> Any:
        if row.parent:
            return context(row.parent)
        return context(trace.caller, remote=True) if trace.caller else None

    return [
        ReadableSpan(
            name=row.name, context=context(row.span_id), parent=parent(row), resource=resource,
            attributes={NAMES.get(key, f"chatloop.{key}"): value
                        for key, value in row.attributes.items()},
            kind=SpanKind.INTERNAL if row.parent else SpanKind.SERVER,
            start_time=(trace.arrived_unix_us + row.start_us) * 1000,
            end_time=(trace.arrived_unix_us + row.end_us) * 1000,
            instrumentation_scope=scope,
        )
        for row in trace.spans
    ]


def otlp_json(spans: Sequence[Any]) -> str:
    """One line of OTLP JSON: identities are hex digits there, not the base64 of protobuf's JSON."""
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    message = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in message.get("resourceSpans", []):
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        span[key] = base64.b64decode(span[key]).hex()
    return json.dumps(message, separators=(",", ":"))
