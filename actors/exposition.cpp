#include "exposition.hpp"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <limits>

namespace chatloop::actors {

Exposition::Exposition() = default;

Exposition::~Exposition() = default;

prometheus::ClientMetric& Exposition::sample(const std::string& name, const char* help, Kind kind,
                                             Labels labels) {
    const auto [known, added] = by_name_.emplace(name, families_.size());
    if (added) {
        prometheus::MetricFamily family;
        family.name = name;
        family.help = help;
        family.type = kind == Kind::kCounter ? prometheus::MetricType::Counter
                      : kind == Kind::kGauge ? prometheus::MetricType::Gauge
                                             : prometheus::MetricType::Histogram;
        families_.push_back(std::move(family));
    }
    prometheus::ClientMetric metric;
    for (auto& [label, value] : labels) metric.label.push_back({label, std::move(value)});
    std::vector<prometheus::ClientMetric>& metrics = families_[known->second].metric;
    metrics.push_back(std::move(metric));
    return metrics.back();
}

void Exposition::counter(const std::string& name, const char* help, double value, Labels labels) {
    sample(name, help, Kind::kCounter, std::move(labels)).counter.value = value;
}

void Exposition::gauge(const std::string& name, const char* help, double value, Labels labels) {
    sample(name, help, Kind::kGauge, std::move(labels)).gauge.value = value;
}

void Exposition::histogram(const std::string& name, const char* help, const Histogram& histogram,
                           Labels labels, double scale) {
    auto& out = sample(name, help, Kind::kHistogram, std::move(labels)).histogram;
    for (size_t i = 0; i < histogram.counts().size(); ++i) {
        out.sample_count += histogram.counts()[i];
        const double bound = i < histogram.bounds().size()
                                 ? histogram.bounds()[i] * scale
                                 : std::numeric_limits<double>::infinity();
        out.bucket.push_back({out.sample_count, bound});
    }
    out.sample_sum = histogram.sum() * scale;
}

std::string Exposition::text() const {
    return prometheus::TextSerializer().Serialize(families_);
}

}  // namespace chatloop::actors
