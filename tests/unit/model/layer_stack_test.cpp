// The stack's one promise: the bits of a row depend on the weights and the tokens before it, and on
// nothing else. And that they are the right ones, against a textbook forward pass in f64.
#include "chatloop/model/layer_stack.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "pipeline.hpp"
#include "tiny_model.hpp"

using namespace chatloop;
using namespace chatloop::testing;
using kernel::Kernels;
using kernel::WeightType;

namespace {

constexpr uint32_t kVocab = 100;
constexpr uint32_t kLengths[] = {130, 67, 5};  // three blocks, two, one

using Logits = std::vector<std::vector<float>>;  // per sequence (length, vocab)

std::vector<const Kernels*> tables() {
    std::vector<const Kernels*> out;
    for (const char* name : {"reference", "avx2", "avx512", "avx512vnni"}) {
        const Kernels* table = kernel::find_kernels(name, kernel::cpu_features());
        if (table != nullptr) out.push_back(table);
    }
    REQUIRE(!out.empty());
    return out;
}

const Kernels& reference() { return *tables().front(); }

std::vector<uint32_t> ids_of(uint32_t sequence) {
    Random random(100 + sequence);
    std::vector<uint32_t> ids;
    for (uint32_t i = 0; i < kLengths[sequence]; ++i) {
        ids.push_back(static_cast<uint32_t>(random.integer(0, kVocab - 1)));
    }
    return ids;
}

TinyOptions mixed_options(uint64_t seed) {
    TinyOptions options;
    options.seed = seed;
    options.embed = WeightType::kQ8;
    options.types = {WeightType::kQ8,    WeightType::kQ4,  WeightType::kF16, WeightType::kQ4Min,
                     WeightType::kQ4Min, WeightType::kF32, WeightType::kQ4,  WeightType::kQ8};
    return options;
}

// Runs the sequences in chunks of `chunk` rows: all of them in every frame, or one after the other.
Logits run_all(Pipeline& pipeline, const std::vector<uint32_t>& sequences, uint32_t chunk,
               bool batched) {
    Logits out(std::size(kLengths));
    std::vector<uint32_t> done(std::size(kLengths), 0);
    for (bool any = true; any;) {
        any = false;
        std::vector<Chunk> chunks;
        std::vector<uint32_t> ids;
        for (uint32_t sequence : sequences) {
            const std::vector<uint32_t> all = ids_of(sequence);
            const uint32_t first = done[sequence];
            const uint32_t rows = std::min(chunk, kLengths[sequence] - first);
            if (rows == 0) continue;
            chunks.push_back({sequence, rows});
            ids.insert(ids.end(), all.begin() + first, all.begin() + first + rows);
            done[sequence] += rows;
            any = true;
            if (!batched) break;
        }
        if (!any) break;
        const std::vector<float> logits = pipeline.run(chunks, ids);
        size_t at = 0;
        for (const Chunk& part : chunks) {
            const size_t count = size_t{part.rows} * kVocab;
            auto& to = out[part.sequence];
            const auto from = logits.begin() + static_cast<ptrdiff_t>(at);
            to.insert(to.end(), from, from + static_cast<ptrdiff_t>(count));
            at += count;
        }
    }
    return out;
}

void check_bits(const std::vector<float>& got, const std::vector<float>& want) {
    REQUIRE(got.size() == want.size());
    REQUIRE_FALSE(got.empty());
    CHECK(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0);
}

void check_bits(const Logits& got, const Logits& want) {
    for (size_t i = 0; i < want.size(); ++i) check_bits(got[i], want[i]);
}

// All sequences in one frame, one stage, the reference kernels: what every other way must equal.
Logits golden(const TempDir& dir, kernel::KvType kv_type = kernel::KvType::kF16) {
    PipelineOptions options;
    options.kv_type = kv_type;
    options.stage_ends = {3};
    options.unit_rows = 512;
    Pipeline pipeline(dir.path(), reference(), options);
    return run_all(pipeline, {0, 1, 2}, 512, true);
}

double max_abs(const std::vector<double>& values) {
    double top = 0.0;
    for (double value : values) top = std::max(top, std::fabs(value));
    return top;
}

}  // namespace

TEST_CASE("chunks, batch mates, units, poison and kernel tables change no bit") {
    const TempDir dir;
    TinyModel(mixed_options(1)).write(dir.path(), {3});
    const Logits want = golden(dir);
    for (const Kernels* kernels : tables()) {
        for (uint32_t unit_rows : {1u, 5u, 64u}) {
            for (uint32_t chunk : {1u, 7u, 32u, 64u, 128u, 512u}) {
                for (bool batched : {false, true}) {
                    CAPTURE(kernels->name);
                    CAPTURE(unit_rows);
                    CAPTURE(chunk);
                    CAPTURE(batched);
                    PipelineOptions options;
                    options.stage_ends = {3};
                    options.unit_rows = unit_rows;
                    options.unit_panels = unit_rows;
                    options.poison = true;
                    Pipeline pipeline(dir.path(), *kernels, options);
                    check_bits(run_all(pipeline, {0, 1, 2}, chunk, batched), want);
                }
            }
        }
    }
}

TEST_CASE("int8 keys and values: chunks, batch mates, stages and tables change no bit") {
    TinyOptions wide = mixed_options(4);
    wide.head_dim = 32;
    const TempDir dir;
    TinyModel(wide).write(dir.path(), {1, 3});
    const Logits want = golden(dir, kernel::KvType::kInt8);
    CHECK(golden(dir)[0] != want[0]);
    for (const Kernels* kernels : tables()) {
        for (uint32_t chunk : {1u, 7u, 32u, 64u, 128u}) {
            for (bool batched : {false, true}) {
                CAPTURE(kernels->name);
                CAPTURE(chunk);
                CAPTURE(batched);
                PipelineOptions options;
                options.stage_ends = {1, 3};
                options.unit_rows = 5;
                options.poison = true;
                options.kv_type = kernel::KvType::kInt8;
                Pipeline pipeline(dir.path(), *kernels, options);
                check_bits(run_all(pipeline, {0, 1, 2}, chunk, batched), want);
            }
        }
    }
}

TEST_CASE("a sequence alone has the bits that it has in company") {
    const TempDir dir;
    TinyModel(mixed_options(2)).write(dir.path(), {3});
    const Logits want = golden(dir);
    for (uint32_t sequence : {0u, 1u, 2u}) {
        PipelineOptions options;
        options.stage_ends = {3};
        options.poison = true;
        Pipeline pipeline(dir.path(), reference(), options);
        check_bits(run_all(pipeline, {sequence}, 512, false)[sequence], want[sequence]);
    }
}

TEST_CASE("the cut into stages and into files changes no bit") {
    const TempDir whole;
    TinyModel(mixed_options(3)).write(whole.path(), {3});
    const Logits want = golden(whole);
    for (const std::vector<int32_t>& files : {std::vector<int32_t>{3}, {1, 3}, {2, 3}, {1, 2, 3}}) {
        const TempDir dir;
        TinyModel(mixed_options(3)).write(dir.path(), files);
        for (const std::vector<int32_t>& stages :
             {std::vector<int32_t>{3}, {1, 3}, {2, 3}, {1, 2, 3}}) {
            for (const Kernels* kernels : tables()) {
                PipelineOptions options;
                options.stage_ends = stages;
                options.poison = true;
                Pipeline pipeline(dir.path(), *kernels, options);
                check_bits(run_all(pipeline, {0, 1, 2}, 31, true), want);
            }
        }
    }
}

TEST_CASE("an abandoned frame leaves no trace in the next one") {
    const TempDir dir;
    TinyModel(mixed_options(4)).write(dir.path(), {3});
    const Logits want = golden(dir);
    PipelineOptions options;
    options.stage_ends = {3};
    options.unit_rows = 8;
    Pipeline pipeline(dir.path(), reference(), options);
    // Other tokens at the same positions, dropped after more than one layer of writes.
    pipeline.abandon_after({{0, 64}}, std::vector<uint32_t>(64, 9), 13);
    check_bits(run_all(pipeline, {0, 1, 2}, 64, true), want);
}

TEST_CASE("every option of the metadata and optional tensor is honoured: f64 agrees") {
    struct Case {
        const char* name;
        TinyOptions options;
    };
    std::vector<Case> cases(6);
    cases[0].name = "plain";
    cases[1] = {"biases", {}};
    cases[1].options.biases = true;
    cases[2] = {"q and k norms", {}};
    cases[2].options.qk_norms = true;
    cases[3] = {"scales", {}};
    cases[3].options.scales = true;
    cases[4] = {"softcaps", {}};
    cases[4].options.softcaps = true;
    cases[5] = {"half rotation, f16 and bf16, all of it", {}};
    cases[5].options = {.seed = 5, .rot_dim = 8, .biases = true, .qk_norms = true, .scales = true,
                        .softcaps = true, .embed = WeightType::kBf16,
                        .types = {WeightType::kF16, WeightType::kBf16, WeightType::kF32,
                                  WeightType::kF16, WeightType::kBf16, WeightType::kF32,
                                  WeightType::kF16, WeightType::kBf16}};
    for (const Case& one : cases) {
        CAPTURE(one.name);
        const TempDir dir;
        const TinyModel model(one.options);
        model.write(dir.path(), {3});
        const std::vector<double> rounded = plain_forward(model, ids_of(1), true);
        const std::vector<double> exact = plain_forward(model, ids_of(1), false);
        PipelineOptions options;
        options.stage_ends = {3};
        Pipeline pipeline(dir.path(), reference(), options);
        const std::vector<float> got = run_all(pipeline, {1}, 512, false)[1];
        REQUIRE(got.size() == rounded.size());

        // f32 noise may move a K or V to the next f16: at most what rounding all of them moves. The
        // noise itself: 8 chains a layer of at most 96 terms, half an ulp each, growing like a sum.
        double kv_effect = 0.0;
        double worst = 0.0;
        for (size_t i = 0; i < got.size(); ++i) {
            kv_effect = std::max(kv_effect, std::fabs(rounded[i] - exact[i]));
            worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - rounded[i]));
        }
        const double noise = 3 * 8 * 96 * 0x1p-24 * max_abs(rounded);
        CAPTURE(kv_effect);
        CAPTURE(noise);
        CAPTURE(worst);
        CHECK(worst > 0.0);
        CHECK(worst < 2 * kv_effect + noise);
        CHECK(kv_effect + noise < 0.01 * max_abs(rounded));  // a bound that could hide nothing
    }
}

TEST_CASE("quantized forms mean what the format says: f64 of the stored weights agrees") {
    for (WeightType type : {WeightType::kQ8, WeightType::kQ4, WeightType::kQ4Min}) {
        CAPTURE(static_cast<int>(type));
        TinyOptions tiny;
        tiny.embed = type;
        tiny.types = std::vector<WeightType>(8, type);
        const TempDir dir;
        const TinyModel model(tiny);
        model.write(dir.path(), {3});
        const std::vector<double> want = plain_forward(model, ids_of(1), true);
        PipelineOptions options;
        options.stage_ends = {3};
        Pipeline pipeline(dir.path(), reference(), options);
        const std::vector<float> got = run_all(pipeline, {1}, 512, false)[1];
        double error = 0.0;
        double power = 0.0;
        for (size_t i = 0; i < got.size(); ++i) {
            error += std::pow(static_cast<double>(got[i]) - want[i], 2);
            power += want[i] * want[i];
        }
        // Activations of 8 bits: amax / 127 / sqrt(12) is about 0.4% of a uniform group's rms, over
        // 13 quantized inputs in a row about 1.5%; a misread nibble or scale gives 100%.
        CHECK(std::sqrt(error / power) < 0.05);
    }
}
