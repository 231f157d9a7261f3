// Layers and head without router, bus or sampling: what the kernels leave for them.
//
//     model_bench MODEL_DIR [--kernels NAME] [--runs N] [--rows UNIT_ROWS] [--only PATTERN]
//
// Tokens per second of this thread's CPU time, minimum, median and maximum. Decode feeds fixed ids
// and computes all logits, but chooses none.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "chatloop/model/head.hpp"
#include "chatloop/model/layer_stack.hpp"

using namespace chatloop;

namespace {

constexpr uint32_t kBlocks = 2048;
constexpr uint32_t kPrefillRows = 64;  // of a frame

double thread_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class T>
T value_or_exit(Result<T> result) {
    if (result.ok()) return std::move(*result);
    std::fprintf(stderr, "model_bench: %s\n", result.error().message.c_str());
    std::exit(64);
}

void load(Checkpoint& checkpoint) {
    while (!value_or_exit(checkpoint.load(64 << 20))) {
    }
}

class Model {
public:
    Model(const std::string& directory, const kernel::Kernels& kernels, uint32_t unit_rows)
        : spec_(value_or_exit(read_spec(directory))),
          layers_(value_or_exit(Checkpoint::open_layers(directory, spec_, 0, spec_.n_layers))),
          head_weights_(value_or_exit(Checkpoint::open_head(directory, spec_))),
          pool_(value_or_exit(KvPool::create_blocks(spec_, spec_.n_layers, kBlocks,
                                                    kernel::KvType::kF16))) {
        load(layers_);
        load(head_weights_);
        LayerStackOptions options;
        options.unit_rows = unit_rows;
        stack_ = std::make_unique<LayerStack>(spec_, layers_, pool_, kernels, options);
        head_ = std::make_unique<Head>(spec_, head_weights_, kernels);
    }

    // `rows` new rows of each of `sequences` sequences that hold `position` rows already; the last
    // row of each goes through the head.
    void run(uint32_t sequences, uint32_t position, uint32_t rows) {
        ids_.resize(size_t{sequences} * rows);
        for (size_t i = 0; i < ids_.size(); ++i) ids_[i] = static_cast<uint32_t>(1000 + 7 * i);
        const uint32_t blocks = kBlocks / sequences;
        tables_.resize(kBlocks);
        for (uint32_t b = 0; b < kBlocks; ++b) tables_[b] = b;
        items_.clear();
        for (uint32_t s = 0; s < sequences; ++s)
            items_.push_back({s, position, rows, {tables_.data() + size_t{s} * blocks, blocks}});
        stack_->begin(items_, reinterpret_cast<const uint8_t*>(ids_.data()));
        while (!stack_->run_unit()) {
        }
        last_.clear();
        for (uint32_t s = 0; s < sequences; ++s) {
            const float* row = stack_->output_row((s + 1) * rows - 1);
            last_.insert(last_.end(), row, row + stack_->width());
        }
        head_->begin(reinterpret_cast<const uint8_t*>(last_.data()), sequences);
        while (!head_->run_unit()) {
        }
    }

    void prefill(uint32_t sequences, uint32_t rows) {
        const uint32_t chunk = std::max(1u, kPrefillRows / sequences);
        for (uint32_t at = 0; at < rows; at += chunk)
            run(sequences, at, std::min(chunk, rows - at));
    }

private:
    ModelSpec spec_;
    Checkpoint layers_;
    Checkpoint head_weights_;
    KvPool pool_;
    std::unique_ptr<LayerStack> stack_;
    std::unique_ptr<Head> head_;
    std::vector<uint32_t> ids_;
    std::vector<uint32_t> tables_;
    std::vector<SequenceRows> items_;
    std::vector<float> last_;
};

struct Options {
    std::string model;
    std::string kernels = "auto";
    std::string only;
    int32_t runs = 5;
    uint32_t unit_rows = kPrefillRows;
};

void report(const Options& options, const std::string& name, uint32_t tokens,
            const std::function<void()>& work) {
    if (name.find(options.only) == std::string::npos) return;
    work();
    std::vector<double> rates;
    for (int32_t i = 0; i < options.runs; ++i) {
        const double start_s = thread_seconds();
        work();
        rates.push_back(tokens / (thread_seconds() - start_s));
    }
    std::sort(rates.begin(), rates.end());
    std::printf("%-34s %8.1f %8.1f %8.1f tok/s\n", name.c_str(), rates.front(),
                rates[rates.size() / 2], rates.back());
    std::fflush(stdout);
}

void bench(Model& model, const Options& options) {
    const auto decode = [&](uint32_t sequences, uint32_t context, uint32_t steps) {
        report(options,
               "decode x" + std::to_string(sequences) + " at " + std::to_string(context),
               sequences * steps, [&model, sequences, context, steps] {
                   for (uint32_t i = 0; i < steps; ++i) model.run(sequences, context + i, 1);
               });
    };
    report(options, "prefill 512", 512, [&] { model.prefill(1, 512); });
    decode(1, 0, 128);
    model.prefill(1, 1024);
    decode(1, 1024, 128);
    for (const uint32_t sequences : {2u, 4u, 8u, 16u, 32u}) {
        model.prefill(sequences, 128);
        decode(sequences, 128, 64);
    }
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const bool has_value = argument.starts_with("--") && i + 1 < argc;
        if (!has_value) options.model = argument;
        if (argument == "--kernels" && has_value) options.kernels = argv[++i];
        if (argument == "--only" && has_value) options.only = argv[++i];
        if (argument == "--runs" && has_value) options.runs = std::max(1, std::atoi(argv[++i]));
        if (argument == "--rows" && has_value)
            options.unit_rows = static_cast<uint32_t>(std::max(1, std::atoi(argv[++i])));
    }
    const kernel::Kernels* kernels =
        kernel::find_kernels(options.kernels.c_str(), kernel::cpu_features());
    if (options.model.empty() || kernels == nullptr) {
        std::fprintf(stderr, "usage: model_bench MODEL_DIR [--kernels NAME] [--runs N] "
                             "[--rows UNIT_ROWS] [--only PATTERN]\n");
        return 64;
    }
    std::printf("%s, %s kernels, %u rows a unit: minimum, median, maximum of %d\n",
                options.model.c_str(), kernels->name, options.unit_rows, options.runs);
    Model model(options.model, *kernels, options.unit_rows);
    bench(model, options);
}
