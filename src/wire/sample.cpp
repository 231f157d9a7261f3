// The sample element, which only the router writes and only the sampler reads.
#include "chatloop/core/limits.hpp"
#include "reader.hpp"
#include "writer.hpp"

namespace chatloop::wire {
namespace {

constexpr uint32_t kMaskedKey = 1;
constexpr float kTemperatureMax = 100.0f;

// (0, 1], as top_p and typical_p are
float read_share(Value value) {
    const float share = value.f32();
    if (!(share > 0.0f && share <= 1.0f)) value.fail("is not in (0, 1]");
    return share;
}

float read_between(Value value, float low, float high) {
    const float number = value.f32();
    if (!(number >= low && number <= high)) value.fail("is out of range");
    return number;
}

// An unknown key would change the answer, so it is an error here.
std::vector<uint32_t> read_masked(const msgpack::object& ext, Problem& problem) {
    if (ext.type != msgpack::type::MAP || ext.via.map.size > 1) {
        problem.fail("sample ext", "is not a map of known entries");
        return {};
    }
    if (ext.via.map.size == 0) return {};
    const msgpack::object_kv& entry = ext.via.map.ptr[0];
    Value(&entry.key, "sample ext key", problem).u32(kMaskedKey, kMaskedKey);
    return Value(&entry.val, "sample masked", problem).numbers(kSampleBytesMax);
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

Result<Sample> decode_sample(std::string_view bytes, size_t output_count) {
    const Error malformed{ErrorCode::kMalformed, "a sample element that is not msgpack"};
    if (bytes.size() > kSampleBytesMax) return malformed;
    const auto tree = Tree::parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    if (!tree) return malformed;

    Problem problem;
    Fields fields = Value(&tree->root(), "sample", problem).fields(11);
    Sample sample;
    sample.index = fields.next("sample index").u32();
    sample.seed = fields.next("sample seed").u64();
    sample.choice = fields.next("sample choice").u32();
    sample.temperature = read_between(fields.next("sample temperature"), 0.0f, kTemperatureMax);
    sample.top_k = fields.next("sample top_k").u32();
    sample.top_p = read_share(fields.next("sample top_p"));
    sample.min_p = read_between(fields.next("sample min_p"), 0.0f, 1.0f);
    sample.typical_p = read_share(fields.next("sample typical_p"));
    sample.logprobs = fields.next("sample logprobs").u8(0, kTopLogprobsMax + 1);
    const Value targets = fields.next("sample targets");
    if (targets.is_nil()) {
        if (output_count != 1) targets.fail("are nil and the item has not one output row");
    } else {
        Fields list = targets.fields(output_count);
        sample.targets.emplace();
        for (size_t i = 0; i < list.count(); ++i) {
            const Value target = list.next();
            sample.targets->push_back(target.is_nil() ? std::nullopt
                                                      : std::optional(target.u32()));
        }
    }
    if (!problem.found()) sample.masked = read_masked(tree->root().via.array.ptr[10], problem);
    if (problem.found()) return problem.error();
    return sample;
}

}  // namespace chatloop::wire
