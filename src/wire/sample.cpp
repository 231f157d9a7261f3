// The sample element, which only the router writes and only the sampler reads.
#include <bit>

#include "chatloop/core/limits.hpp"
#include "cursor.hpp"
#include "writer.hpp"

namespace chatloop::wire {
namespace {

enum ExtKey : uint32_t { kMaskedKey = 1, kBiasKey = 2, kPenaltiesKey = 3, kAllowedKey = 4 };
constexpr uint32_t kExtKeys = 4;
constexpr size_t kIdBytes = 5;  // of an id in an array, at most

size_t count_bits(std::string_view bits) {
    size_t count = 0;
    for (const char byte : bits)
        count += static_cast<size_t>(std::popcount(static_cast<uint8_t>(byte)));
    return count;
}

// Few ids are shorter as an array, many as bits.
bool shorter_as_ids(std::string_view bits) { return count_bits(bits) * kIdBytes < bits.size(); }

float read_between(Cursor& cursor, std::string_view name, Problem& problem, float low,
                   float high) {
    const float number = cursor.f32(name);
    if (!(number >= low && number <= high)) problem.fail(name, "is out of range");
    return number;
}

// (0, high]
float read_above_0(Cursor& cursor, std::string_view name, Problem& problem, float high) {
    const float number = read_between(cursor, name, problem, 0.0f, high);
    if (number == 0.0f) problem.fail(name, "is not above 0");
    return number;
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

void read_bias(Cursor& cursor, Problem& problem, Sample& sample) {
    const size_t numbers = cursor.array("sample logit_bias", 0, 2 * kLogitBiasMax);
    if (numbers % 2 != 0) problem.fail("sample logit_bias", "has an id without its bias");
    for (size_t i = 0; i < numbers && !problem.found(); i += 2) {
        const uint32_t token = cursor.u32("sample logit_bias id");
        sample.logit_bias.push_back(
            {token, read_between(cursor, "sample logit_bias", problem, -kBiasMax, kBiasMax)});
    }
}

void read_penalties(Cursor& cursor, Problem& problem, Sample& sample) {
    cursor.array("sample penalties", 4, 4);
    sample.repetition_penalty =
        read_above_0(cursor, "sample repetition_penalty", problem, kRepetitionPenaltyMax);
    sample.frequency_penalty =
        read_between(cursor, "sample frequency_penalty", problem, -kPenaltyMax, kPenaltyMax);
    sample.presence_penalty =
        read_between(cursor, "sample presence_penalty", problem, -kPenaltyMax, kPenaltyMax);
    const size_t numbers = cursor.array("sample history", 3, 3 * kHistoryIdsMax);
    if (numbers % 3 != 0) problem.fail("sample history", "has an id without its counts");
    for (size_t i = 0; i < numbers && !problem.found(); i += 3) {
        TokenCount seen;
        seen.token = cursor.u32("sample history id");
        seen.prompt = cursor.u32("sample history prompt count");
        seen.output = cursor.u32("sample history output count");
        sample.history.push_back(seen);
    }
}

// Bits, or ids ascending: both become bits.
void read_allowed(Cursor& cursor, Problem& problem, Sample& sample) {
    std::string& bits = sample.allowed.emplace();
    if (cursor.next_is_bin()) {
        bits = cursor.bin("sample allowed", kAllowedBytesMax);
        if (bits.empty() || bits.back() == 0) problem.fail("sample allowed", "has no last id");
        return;
    }
    constexpr uint32_t kIdsMax = 8 * kAllowedBytesMax;
    uint32_t low = 0;
    for (size_t left = cursor.array("sample allowed", 1, kIdsMax); left > 0 && !problem.found();
         --left) {
        const uint32_t id = cursor.u32("sample allowed id", low, kIdsMax - 1);
        low = id + 1;
        if (problem.found()) break;
        bits.resize(id / 8 + 1);
        bits[id / 8] = static_cast<char>(static_cast<uint8_t>(bits[id / 8]) | 1u << id % 8);
    }
}

void write_allowed(Writer& writer, std::string_view bits) {
    if (!shorter_as_ids(bits)) {
        writer.bin(bits);
        return;
    }
    writer.array(count_bits(bits));
    for (size_t at = 0; at < bits.size(); ++at)
        for (auto left = static_cast<uint8_t>(bits[at]); left != 0; left &= left - 1)
            writer.number(8 * at + static_cast<size_t>(std::countr_zero(left)));
}

// An unknown key would change the answer, so it is an error here.
void read_ext(Cursor& cursor, Problem& problem, Sample& sample) {
    sample.masked.clear();
    sample.logit_bias.clear();
    sample.history.clear();
    sample.allowed.reset();
    sample.repetition_penalty = 1.0f;
    sample.frequency_penalty = sample.presence_penalty = 0.0f;
    uint32_t last_key = 0;
    for (size_t left = cursor.map("sample ext", kExtKeys); left > 0 && !problem.found(); --left) {
        const uint32_t key = cursor.u32("sample ext key", last_key + 1, kExtKeys);  // ascending
        last_key = key;
        if (key == kMaskedKey)
            cursor.numbers("sample masked", kSampleBytesMax, UINT32_MAX, sample.masked);
        if (key == kBiasKey) read_bias(cursor, problem, sample);
        if (key == kPenaltiesKey) read_penalties(cursor, problem, sample);
        if (key == kAllowedKey) read_allowed(cursor, problem, sample);
    }
}

void write_ext(Writer& writer, const Sample& sample) {
    const bool has_mask = !sample.masked.empty();
    const bool has_bias = !sample.logit_bias.empty();
    const bool has_history = !sample.history.empty();
    writer.map(has_mask + has_bias + has_history + sample.allowed.has_value());
    if (has_mask) writer.number(kMaskedKey).numbers(sample.masked);
    if (has_bias) {
        writer.number(kBiasKey).array(2 * sample.logit_bias.size());
        for (const LogitBias& bias : sample.logit_bias) writer.number(bias.token).f32(bias.bias);
    }
    if (has_history) {
        writer.number(kPenaltiesKey).array(4).f32(sample.repetition_penalty);
        writer.f32(sample.frequency_penalty).f32(sample.presence_penalty);
        writer.array(3 * sample.history.size());
        for (const TokenCount& seen : sample.history)
            writer.number(seen.token).number(seen.prompt).number(seen.output);
    }
    if (!sample.allowed) return;
    writer.number(kAllowedKey);
    write_allowed(writer, *sample.allowed);
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
    write_ext(writer, sample);
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
    sample.top_p = read_above_0(cursor, "sample top_p", problem, 1.0f);
    sample.min_p = read_between(cursor, "sample min_p", problem, 0.0f, 1.0f);
    sample.typical_p = read_above_0(cursor, "sample typical_p", problem, 1.0f);
    sample.logprobs = cursor.u8("sample logprobs", 0, kTopLogprobsMax + 1);
    read_targets(cursor, problem, output_count, sample);
    read_ext(cursor, problem, sample);
    if (problem.found()) return problem.error();
    return Ok{};
}

Result<Sample> decode_sample(std::string_view bytes, size_t output_count) {
    Sample sample;
    if (const Status read = decode_sample(bytes, output_count, sample); !read) return read.error();
    return sample;
}

}  // namespace chatloop::wire
