// Traces: as the answer to a TRACE on the front, and as what goes to the exporter.
#include "chatloop/wire/spans.hpp"


#include "chatloop/core/hex.hpp"
#include "chatloop/core/limits.hpp"
#include "front.hpp"

namespace chatloop::wire {
namespace {

constexpr size_t kSpanElements = 6;
constexpr size_t kTraceEntries = 4;

void write_span(Writer& writer, const Span& span) {
    writer.array(kSpanElements).str(span.name).number(span.id).number(span.parent);
    writer.signed_number(span.start_us).signed_number(span.end_us);
    writer.map(span.attributes.size());
    for (const Attribute& attribute : span.attributes) {
        writer.str(attribute.name);
        if (const auto* text = std::get_if<std::string>(&attribute.value)) writer.str(*text);
        else writer.number(std::get<uint64_t>(attribute.value));
    }
}

std::string read_hex(Value value, size_t digits) {
    std::string text = value.str(digits);
    const bool is_whole = text.empty() || text.size() == digits;
    if (!is_whole || !is_hex(text)) value.fail("is no identity of a trace");
    return text;
}

Span read_span(Value value) {
    Fields f = value.fields(kSpanElements);
    Span span;
    span.name = f.next("span name").str(kNameBytesMax);
    span.id = f.next("span id").u64();
    span.parent = f.next("span parent").u64();
    span.start_us = static_cast<int64_t>(f.next("span start").u64(0, INT64_MAX));
    span.end_us = static_cast<int64_t>(f.next("span end").u64(0, INT64_MAX));
    Entries attributes = f.next("span attributes").entries(kSpanAttributesMax);
    for (size_t i = 0; i < attributes.count(); ++i) {
        const auto [name, entry] = attributes.at(i);
        if (entry.is_str()) span.attributes.push_back({name, entry.str(kNameBytesMax)});
        else span.attributes.push_back({name, entry.u64()});
    }
    return span;
}

}  // namespace

void write_trace(Writer& writer, const Trace& trace) {
    writer.map(kTraceEntries).str("trace_id").str(trace.trace_id);
    writer.str("caller").str(trace.caller).str("sampled").boolean(trace.sampled);
    writer.str("spans").array(trace.spans.size());
    for (const Span& span : trace.spans) write_span(writer, span);
}

Trace read_trace(Value value) {
    constexpr size_t kTraceIdDigits = 32, kSpanIdDigits = 16;
    Entries entries = value.entries(kTraceEntries);
    Trace trace;
    trace.trace_id = read_hex(entries.take("trace_id"), kTraceIdDigits);
    trace.caller = read_hex(entries.take("caller"), kSpanIdDigits);
    trace.sampled = entries.take("sampled").boolean();
    Fields spans = entries.take("spans").list(0, kTraceSpansMax);
    for (size_t i = 0; i < spans.count(); ++i) trace.spans.push_back(read_span(spans.next("span")));
    entries.finish();
    return trace;
}

Bytes encode_export(const TraceSource& source, int64_t arrived_unix_us, const Trace& trace) {
    Bytes bytes;
    Writer writer(bytes);
    writer.array(4).number(kProtocolVersion);
    writer.map(3).str("service").str(source.service).str("instance").str(source.instance);
    writer.str("endpoint").str(source.endpoint);
    writer.signed_number(arrived_unix_us);
    write_trace(writer, trace);
    return bytes;
}

}  // namespace chatloop::wire
