// The sample element, which only the router writes and only the sampler reads.
#include "chatloop/core/limits.hpp"
#include "cursor.hpp"
#include "writer.hpp"

namespace chatloop::wire {
namespace {

constexpr uint32_t kMaskedKey = 1;
constexpr float kTemperatureMax = 100.0f;

float read_between(Cursor& cursor, std::string_view name, Problem& problem, float low,
                   float high) {
    const float number = cursor.f32(name);
    if (!(number >= low && number <= high)) problem.fail(name, "is out of range");
    return number;
}

// (0, 1], as top_p and typical_p are
float read_share(Cursor& cursor, std::string_view name, Problem& problem) {
    const float share = read_between(cursor, name, problem, 0.0f, 1.0f);
    if (share == 0.0f) problem.fail(name, "is not in (0, 1]");
    return share;
}

void read_targets(Cursor& cursor, Problem& problem, size_t output_count, Sample& sample) {
    if (cursor.take_nil()) {
        sample.targets.reset();
        if (output_count != 1)
            problem.fail("sample targets", "are nil and the item has not one output row");
        return;
    }
    if (!sample.targets) sample.targets.emplace();
    sample.targets->clear();
    size_t left = cursor.array("sample targets", output_count, output_count);
    for (; left > 0 && !problem.found(); --left) {
        if (cursor.take_nil()) sample.targets->emplace_back(std::nullopt);
        else sample.targets->emplace_back(cursor.u32("sample target"));
    }
}

// An unknown key would change the answer, so it is an error here.
void read_ext(Cursor& cursor, Sample& sample) {
    sample.masked.clear();
    if (cursor.map("sample ext", 1) == 0) return;
    cursor.u32("sample ext key", kMaskedKey, kMaskedKey);
    cursor.numbers("sample masked", kSampleBytesMax, UINT32_MAX, sample.masked);
}

}  // namespace

std::string encode_sample(const Sample& sample) {
    Bytes bytes;
    Writer writer(bytes);
    writer.array(11).number(sample.index).number(sample.seed).number(sample.choice);
    writer.f32(sample.temperature).number(sample.top_k).f32(sample.top_p).f32(sample.min_p);
    writer.f32(sample.typical_p).number(sample.logprobs);
    if (sample.targets) {
        writer.array(sample.targets->size());
        for (const auto& target : *sample.targets) target ? writer.number(*target) : writer.nil();
    } else {
        writer.nil();
    }
    writer.map(sample.masked.empty() ? 0 : 1);
    if (!sample.masked.empty()) writer.number(kMaskedKey).numbers(sample.masked);
    return {bytes.begin(), bytes.end()};
}

Status decode_sample(std::string_view bytes, size_t output_count, Sample& sample) {
    const ByteView view{reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
    if (bytes.size() > kSampleBytesMax || value_end(view, 0) != bytes.size())
        return Error{ErrorCode::kMalformed, "a sample element that is not msgpack"};
    Problem problem;
    Cursor cursor(view, problem);
    cursor.array("sample", 11, 11);
    sample.index = cursor.u32("sample index");
    sample.seed = cursor.u64("sample seed");
    sample.choice = cursor.u32("sample choice");
    sample.temperature = read_between(cursor, "sample temperature", problem, 0, kTemperatureMax);
    sample.top_k = cursor.u32("sample top_k");
    sample.top_p = read_share(cursor, "sample top_p", problem);
    sample.min_p = read_between(cursor, "sample min_p", problem, 0.0f, 1.0f);
    sample.typical_p = read_share(cursor, "sample typical_p", problem);
    sample.logprobs = cursor.u8("sample logprobs", 0, kTopLogprobsMax + 1);
    read_targets(cursor, problem, output_count, sample);
    read_ext(cursor, sample);
    if (problem.found()) return problem.error();
    return Ok{};
}

Result<Sample> decode_sample(std::string_view bytes, size_t output_count) {
    Sample sample;
    if (const Status read = decode_sample(bytes, output_count, sample); !read) return read.error();
    return sample;
}

}  // namespace chatloop::wire
