// The transformer as a textbook has it, in f64: no blocks, no fused operations, no quantization.
#include <algorithm>
#include <cmath>

#include "tiny_model.hpp"

namespace chatloop::testing {
namespace {

using Row = std::vector<double>;

Row multiply(const Dense& w, const Row& x) {
    Row y(static_cast<size_t>(w.rows), 0.0);
    for (int32_t r = 0; r < w.rows; ++r) {
        double& sum = y[static_cast<size_t>(r)];
        for (int32_t c = 0; c < w.cols; ++c) sum += w.at(r, c) * x[static_cast<size_t>(c)];
    }
    return y;
}

void add(Row& y, const Dense& bias) {
    for (size_t i = 0; i < bias.w.size(); ++i) y[i] += bias.w[i];
}

// Each group of weights.cols values on its own.
Row normed(const Row& x, const Dense& weights, double eps) {
    const size_t n = weights.w.size();
    Row y(x.size());
    for (size_t first = 0; first < x.size(); first += n) {
        double squares = 0.0;
        for (size_t i = 0; i < n; ++i) squares += x[first + i] * x[first + i];
        const double r = 1.0 / std::sqrt(squares / static_cast<double>(n) + eps);
        for (size_t i = 0; i < n; ++i) y[first + i] = x[first + i] * r * weights.w[i];
    }
    return y;
}

void rotate(Row& x, int32_t head_dim, const TinyModel& model, int32_t position) {
    const int32_t half = model.spec().rot_dim / 2;
    for (size_t first = 0; first < x.size(); first += static_cast<size_t>(head_dim)) {
        for (int32_t i = 0; i < half; ++i) {
            const double c = model.rope_cos().at(position, i);
            const double s = model.rope_sin().at(position, i);
            double& x0 = x[first + static_cast<size_t>(i)];
            double& x1 = x[first + static_cast<size_t>(i + half)];
            const double y0 = x0 * c - x1 * s;
            x1 = x1 * c + x0 * s;
            x0 = y0;
        }
    }
}

double capped(double s, double cap) { return cap > 0.0 ? cap * std::tanh(s / cap) : s; }

void round_f16(Row& x) {
    for (double& value : x) value = f16_value(f16_bits(value));
}

Row attend(const Row& q, const std::vector<Row>& keys, const std::vector<Row>& values,
           const ModelSpec& spec) {
    const size_t dim = static_cast<size_t>(spec.head_dim);
    const int32_t share = spec.n_heads / spec.n_kv_heads;
    Row out(q.size(), 0.0);
    for (int32_t h = 0; h < spec.n_heads; ++h) {
        const size_t at = static_cast<size_t>(h) * dim;
        const size_t kv_at = static_cast<size_t>(h / share) * dim;
        Row p;
        for (const Row& key : keys) {
            double s = 0.0;
            for (size_t i = 0; i < dim; ++i) s += q[at + i] * key[kv_at + i];
            p.push_back(capped(s * static_cast<double>(spec.attn_scale), spec.attn_softcap));
        }
        const double top = *std::max_element(p.begin(), p.end());
        double total = 0.0;
        for (double& s : p) total += s = std::exp(s - top);
        for (size_t j = 0; j < p.size(); ++j) {
            for (size_t i = 0; i < dim; ++i) out[at + i] += p[j] / total * values[j][kv_at + i];
        }
    }
    return out;
}

struct Cache {
    std::vector<Row> keys;
    std::vector<Row> values;
};

void run_layer(Row& x, const TinyModel& model, const TinyLayer& layer, Cache& cache,
               bool round_kv) {
    const ModelSpec& spec = model.spec();
    const double eps = spec.norm_eps;
    const auto position = static_cast<int32_t>(cache.keys.size());
    const Row xb = normed(x, layer.attn_norm, eps);
    Row q = multiply(layer.wq, xb);
    Row k = multiply(layer.wk, xb);
    Row v = multiply(layer.wv, xb);
    add(q, layer.bq);
    add(k, layer.bk);
    add(v, layer.bv);
    if (!layer.q_norm.w.empty()) q = normed(q, layer.q_norm, eps);
    if (!layer.k_norm.w.empty()) k = normed(k, layer.k_norm, eps);
    rotate(q, spec.head_dim, model, position);
    rotate(k, spec.head_dim, model, position);
    if (round_kv) {
        round_f16(k);
        round_f16(v);
    }
    cache.keys.push_back(std::move(k));
    cache.values.push_back(std::move(v));
    Row att = multiply(layer.wo, attend(q, cache.keys, cache.values, spec));
    add(att, layer.bo);
    const double scale = spec.residual_scale;
    for (size_t i = 0; i < x.size(); ++i) x[i] += att[i] * scale;

    const Row xf = normed(x, layer.ffn_norm, eps);
    Row h = multiply(layer.w1, xf);
    const Row up = multiply(layer.w3, xf);
    for (size_t i = 0; i < h.size(); ++i) h[i] = h[i] / (1.0 + std::exp(-h[i])) * up[i];
    const Row down = multiply(layer.w2, h);
    for (size_t i = 0; i < x.size(); ++i) x[i] += down[i] * scale;
}

}  // namespace

std::vector<double> plain_forward(const TinyModel& model, const std::vector<uint32_t>& ids,
                                  bool round_kv) {
    const ModelSpec& spec = model.spec();
    std::vector<Cache> caches(model.layers().size());
    std::vector<double> logits;
    for (uint32_t id : ids) {
        Row x;
        for (int32_t i = 0; i < spec.hidden_size; ++i) {
            x.push_back(model.embed().at(static_cast<int32_t>(id), i) *
                        static_cast<double>(spec.embedding_scale));
        }
        for (size_t i = 0; i < caches.size(); ++i) {
            run_layer(x, model, model.layers()[i], caches[i], round_kv);
        }
        for (double z : multiply(model.head(), normed(x, model.norm(), spec.norm_eps))) {
            logits.push_back(capped(z * static_cast<double>(spec.logit_scale), spec.logit_softcap));
        }
    }
    return logits;
}

}  // namespace chatloop::testing
