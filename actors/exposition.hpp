// A /metrics page (Prometheus text format), made when somebody asks for it from counters that exist
// anyway. No registry is kept: what is not on the page costs nothing.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/core/histogram.hpp"

namespace prometheus {
struct ClientMetric;
struct MetricFamily;
}  // namespace prometheus

namespace chatloop::actors {

inline constexpr char kExpositionType[] = "text/plain; version=0.0.4; charset=utf-8";

class Exposition {
public:
    using Labels = std::vector<std::pair<std::string, std::string>>;

    Exposition();
    ~Exposition();
    Exposition(const Exposition&) = delete;
    Exposition& operator=(const Exposition&) = delete;

    // Samples of one name share its help; `counter` names end in _total.
    void counter(const std::string& name, const char* help, double value, Labels labels = {});
    void gauge(const std::string& name, const char* help, double value, Labels labels = {});
    // The bounds and the sum are multiplied by `scale`: 0.001 makes seconds of milliseconds.
    void histogram(const std::string& name, const char* help, const Histogram& histogram,
                   Labels labels = {}, double scale = 1.0);
    std::string text() const;

private:
    enum class Kind { kCounter, kGauge, kHistogram };
    prometheus::ClientMetric& sample(const std::string& name, const char* help, Kind kind,
                                     Labels labels);

    std::vector<prometheus::MetricFamily> families_;
    std::map<std::string, size_t> by_name_;
};

}  // namespace chatloop::actors
