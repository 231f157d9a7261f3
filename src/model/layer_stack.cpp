#include "chatloop/model/layer_stack.hpp"

#include <algorithm>
#include <cstring>

namespace chatloop {
namespace {

using kernel::kBlockPositions;

size_t floats(uint32_t rows, int32_t width) { return size_t{rows} * static_cast<size_t>(width); }

int32_t width_max(const ModelSpec& spec) {
    return std::max({spec.hidden_size, spec.q_width(), spec.ffn_size});
}

int64_t offset(uint32_t rows, int32_t width) { return static_cast<int64_t>(rows) * width; }
int64_t offset(int32_t rows, int32_t width) { return static_cast<int64_t>(rows) * width; }

}  // namespace

LayerStack::LayerStack(const ModelSpec& spec, const Checkpoint& checkpoint, KvPool& pool,
                       const kernel::Kernels& kernels, const LayerStackOptions& options)
    : spec_(spec),
      weights_(checkpoint.stage()),
      pool_(pool),
      kernels_(kernels),
      rows_max_(options.rows_max),
      unit_rows_max_(std::min(options.unit_rows, options.rows_max)),
      unit_rows_(unit_rows_max_),
      x_(floats(rows_max_, spec.hidden_size), options.preallocate),
      xb_(floats(unit_rows_max_, spec.hidden_size), options.preallocate),
      q_(floats(unit_rows_max_, spec.q_width()), options.preallocate),
      k_(floats(unit_rows_max_, spec.kv_width()), options.preallocate),
      v_(floats(unit_rows_max_, spec.kv_width()), options.preallocate),
      att_(floats(unit_rows_max_, spec.q_width()), options.preallocate),
      hb_(floats(unit_rows_max_, spec.ffn_size), options.preallocate),
      hb2_(floats(unit_rows_max_, spec.ffn_size), options.preallocate),
      quantized_(unit_rows_max_, width_max(spec), options.preallocate) {
    CL_ASSERT(checkpoint.loaded());
    CL_ASSERT(rows_max_ > 0 && rows_max_ <= kFrameRowsMax);
    CL_ASSERT(pool.layers() == static_cast<int32_t>(weights_.layers.size()));
    sequences_.reserve(kFrameItemsMax);
    runs_.reserve(kFrameItemsMax);
}

uint64_t LayerStack::scratch_bytes(const ModelSpec& spec, const LayerStackOptions& options) {
    const uint64_t hidden = static_cast<uint64_t>(spec.hidden_size);
    const uint32_t unit_rows = std::min(options.unit_rows, options.rows_max);
    const uint64_t unit_width =
        hidden + 2 * (static_cast<uint64_t>(spec.q_width()) + spec.kv_width() + spec.ffn_size);
    return (options.rows_max * hidden + unit_rows * unit_width) * sizeof(float) +
           ActivationBuffer::bytes(unit_rows, width_max(spec));
}

void LayerStack::set_unit_rows(uint32_t unit_rows) {
    CL_ASSERT(unit_rows > 0);
    unit_rows_ = std::min(unit_rows, unit_rows_max_);
}

void LayerStack::begin(std::span<const SequenceRows> sequences, const uint8_t* payload) {
    CL_ASSERT(!running_);
    CL_ASSERT(!sequences.empty() && sequences.size() <= kFrameItemsMax);
    sequences_.assign(sequences.begin(), sequences.end());
    payload_ = payload;
    rows_ = 0;
    for (const SequenceRows& sequence : sequences_) {
        CL_ASSERT(sequence.rows > 0 && sequence.rows <= rows_max_ - rows_);
        const uint64_t end = uint64_t{sequence.position} + sequence.rows;
        CL_ASSERT(end <= static_cast<uint64_t>(spec_.context_length));
        const size_t blocks = (end + kBlockPositions - 1) / kBlockPositions;
        CL_ASSERT(sequence.table.size() >= blocks);
        for (size_t j = 0; j < blocks; ++j) CL_ASSERT(sequence.table[j] < pool_.blocks());
        rows_ += sequence.rows;
    }
    row_next_ = 0;
    layer_next_ = 0;
    running_ = true;
}

bool LayerStack::run_unit() {
    CL_ASSERT(running_);
    const uint32_t rows = std::min(unit_rows_, rows_ - row_next_);
    if (layer_next_ == 0) load_rows(row_next_, rows);
    collect_runs(row_next_, rows);

    const LayerWeights& layer = weights_.layers[layer_next_];
    const kernel::KvLayer kv = pool_.layer(static_cast<int32_t>(layer_next_));
    float* x = x_.get() + offset(row_next_, spec_.hidden_size);
    attention_half(layer, kv, x, static_cast<int32_t>(rows));
    ffn_half(layer, x, static_cast<int32_t>(rows));

    row_next_ += rows;
    if (row_next_ == rows_) {
        row_next_ = 0;
        ++layer_next_;
    }
    running_ = layer_next_ < weights_.layers.size();
    return !running_;
}

const float* LayerStack::output_row(uint32_t row) const {
    CL_ASSERT(!running_ && row < rows_);
    return x_.get() + offset(row, spec_.hidden_size);
}

void LayerStack::abandon() {
    running_ = false;
    rows_ = 0;
}

// The payload is unaligned, so every value is copied out.
void LayerStack::load_rows(uint32_t row_first, uint32_t rows) {
    const int32_t d = spec_.hidden_size;
    float* x = x_.get() + offset(row_first, d);
    if (!weights_.has_embedding) {
        const size_t row_bytes = static_cast<size_t>(d) * sizeof(float);
        std::memcpy(x, payload_ + row_first * row_bytes, rows * row_bytes);
        return;
    }
    for (uint32_t r = 0; r < rows; ++r) {
        uint32_t id = 0;
        std::memcpy(&id, payload_ + (row_first + r) * sizeof id, sizeof id);
        CL_ASSERT(id < static_cast<uint32_t>(spec_.vocab_size));
        kernels_.embed(x + offset(r, d), weights_.embed, static_cast<int32_t>(id));
    }
    if (spec_.embedding_scale != 1.0f) {
        kernels_.scale(x, spec_.embedding_scale, offset(rows, d));
    }
}

// The parts of the frame's sequences that lie in rows [row_first, row_first + rows).
void LayerStack::collect_runs(uint32_t row_first, uint32_t rows) {
    runs_.clear();
    const uint32_t row_end = row_first + rows;
    uint32_t sequence_first = 0;
    for (const SequenceRows& sequence : sequences_) {
        const uint32_t first = std::max(sequence_first, row_first);
        const uint32_t end = std::min(sequence_first + sequence.rows, row_end);
        if (first < end) {
            Run run;
            run.row = static_cast<int32_t>(first - row_first);
            run.rows = static_cast<int32_t>(end - first);
            run.position = static_cast<int32_t>(sequence.position + (first - sequence_first));
            run.table = sequence.table.data();
            runs_.push_back(run);
        }
        sequence_first += sequence.rows;
        if (sequence_first >= row_end) break;
    }
}

// x += residual_scale * (wo * attention(norm(x)) + bo)
void LayerStack::attention_half(const LayerWeights& layer, const kernel::KvLayer& kv, float* x,
                                int32_t rows) {
    kernels_.rms_norm(xb_.get(), x, layer.attn_norm, rows, spec_.hidden_size, spec_.norm_eps);
    project_qkv(layer, rows);
    place_qk(kv);
    if (spec_.attn_scale != 1.0f) {
        kernels_.scale(q_.get(), spec_.attn_scale, offset(rows, spec_.q_width()));
    }
    for (const Run& run : runs_) {
        kernel::AttentionShape shape;
        shape.n_heads = spec_.n_heads;
        shape.rows = run.rows;
        shape.position_first = run.position;
        shape.softcap = spec_.attn_softcap;
        const int64_t first = offset(run.row, spec_.q_width());
        kernels_.attention(att_.get() + first, q_.get() + first, kv, run.table, shape);
    }
    matmul(xb_.get(), layer.wo,
           quantized_.prepare(kernels_, att_.get(), rows, spec_.q_width(), {&layer.wo}));
    add_bias(xb_.get(), layer.bo, rows, spec_.hidden_size);
    add_residual(x, xb_.get(), rows);
}

// q, k, v from the normed rows: matrix, bias, and the norm per head where the model has one.
void LayerStack::project_qkv(const LayerWeights& layer, int32_t rows) {
    const kernel::Activations in = quantized_.prepare(kernels_, xb_.get(), rows, spec_.hidden_size,
                                                      {&layer.wq, &layer.wk, &layer.wv});
    matmul(q_.get(), layer.wq, in);
    matmul(k_.get(), layer.wk, in);
    matmul(v_.get(), layer.wv, in);
    add_bias(q_.get(), layer.bq, rows, spec_.q_width());
    add_bias(k_.get(), layer.bk, rows, spec_.kv_width());
    add_bias(v_.get(), layer.bv, rows, spec_.kv_width());
    if (layer.q_norm != nullptr) {
        kernels_.rms_norm(q_.get(), q_.get(), layer.q_norm, rows * spec_.n_heads, spec_.head_dim,
                          spec_.norm_eps);
    }
    if (layer.k_norm != nullptr) {
        kernels_.rms_norm(k_.get(), k_.get(), layer.k_norm, rows * spec_.n_kv_heads,
                          spec_.head_dim, spec_.norm_eps);
    }
}

// Rotates q and k to their positions and stores k and v.
void LayerStack::place_qk(const kernel::KvLayer& kv) {
    const int32_t half = spec_.rot_dim / 2;
    for (const Run& run : runs_) {
        for (int32_t r = 0; r < run.rows; ++r) {
            const int32_t row = run.row + r;
            const int32_t position = run.position + r;
            const float* cos = weights_.rope_cos + offset(position, half);
            const float* sin = weights_.rope_sin + offset(position, half);
            float* q = q_.get() + offset(row, spec_.q_width());
            float* k = k_.get() + offset(row, spec_.kv_width());
            const float* v = v_.get() + offset(row, spec_.kv_width());
            kernels_.rope(q, spec_.n_heads, spec_.head_dim, spec_.rot_dim, cos, sin);
            kernels_.rope(k, spec_.n_kv_heads, spec_.head_dim, spec_.rot_dim, cos, sin);
            kernels_.store_kv(kv, run.table[position / kBlockPositions],
                              position % kBlockPositions, k, v);
        }
    }
}

// x += residual_scale * w2 * swiglu(w1 * norm(x), w3 * norm(x))
void LayerStack::ffn_half(const LayerWeights& layer, float* x, int32_t rows) {
    kernels_.rms_norm(xb_.get(), x, layer.ffn_norm, rows, spec_.hidden_size, spec_.norm_eps);
    const kernel::Activations in = quantized_.prepare(kernels_, xb_.get(), rows, spec_.hidden_size,
                                                      {&layer.w1, &layer.w3});
    matmul(hb_.get(), layer.w1, in);
    matmul(hb2_.get(), layer.w3, in);
    kernels_.swiglu(hb_.get(), hb_.get(), hb2_.get(), offset(rows, spec_.ffn_size));
    matmul(xb_.get(), layer.w2,
           quantized_.prepare(kernels_, hb_.get(), rows, spec_.ffn_size, {&layer.w2}));
    add_residual(x, xb_.get(), rows);
}

void LayerStack::matmul(float* y, const kernel::Matrix& w, const kernel::Activations& in) {
    kernels_.matmul(y, w.n, w, in, 0, w.panels());
}

void LayerStack::add_bias(float* y, const float* bias, int32_t rows, int32_t n) {
    if (bias != nullptr) kernels_.add_bias(y, bias, rows, n);
}

void LayerStack::add_residual(float* x, float* y, int32_t rows) {
    const int64_t count = offset(rows, spec_.hidden_size);
    if (spec_.residual_scale != 1.0f) kernels_.scale(y, spec_.residual_scale, count);
    kernels_.add(x, y, count);
}

}  // namespace chatloop
