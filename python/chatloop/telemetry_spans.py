"""A router's trace as OpenTelemetry's spans."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VERSION = 1
SPANS_MAX = 1024
ATTRIBUTES_MAX = 16
TEXT_MAX = 1024
TIME_US_MAX = 1 << 53  # two of them, in nanoseconds, fit OTLP's 64 bits
INT64_MAX, UINT64_MAX = (1 << 63) - 1, (1 << 64) - 1
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
        rows = trace["spans"]
        if version != VERSION or not isinstance(rows, list) or not 0 < len(rows) <= SPANS_MAX:
            raise Malformed
        return Trace(
            *(_text(source[name]) for name in ("service", "instance", "endpoint")),
            _number(arrived_us, TIME_US_MAX), _identity(trace["trace_id"], 32),
            _identity(trace["caller"], 16) if trace["caller"] else 0,
            [_span(*row) for row in rows])
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise Malformed from error


def _span(name: Any, span_id: Any, parent: Any, start: Any, end: Any, attributes: Any) -> SpanRow:
    if not isinstance(attributes, dict) or len(attributes) > ATTRIBUTES_MAX or span_id == 0:
        raise Malformed
    values = {_text(key): _text(value) if isinstance(value, str) else _number(value, INT64_MAX)
              for key, value in attributes.items()}
    return SpanRow(_text(name), _number(span_id, UINT64_MAX), _number(parent, UINT64_MAX),
                   _number(start, TIME_US_MAX), _number(end, TIME_US_MAX), values)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise Malformed
    return value


def _number(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Malformed
    return value


def _identity(value: Any, digits: int) -> int:
    """Of lower-case hex digits, and not 0."""
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
        raise Malformed
    number = int(value, 16)
    if number == 0:
        raise Malformed
    return number


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
