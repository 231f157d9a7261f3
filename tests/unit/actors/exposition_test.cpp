// The text of a /metrics page.
#include "actors/exposition.hpp"

#include <doctest/doctest.h>

using namespace chatloop;
using namespace chatloop::actors;

TEST_CASE("samples of a name stand together under one help") {
    Exposition page;
    page.gauge("a", "An a", 1, {{"worker_id", "x"}});
    page.counter("b_total", "A b", 2);
    page.gauge("a", "not said again", 3, {{"worker_id", "y"}});
    CHECK(page.text() ==
          "# HELP a An a\n# TYPE a gauge\na{worker_id=\"x\"} 1\na{worker_id=\"y\"} 3\n"
          "# HELP b_total A b\n# TYPE b_total counter\nb_total 2\n");
}

TEST_CASE("a histogram's buckets are cumulative, the last one is all") {
    static constexpr double kBounds[] = {1, 10};
    Histogram histogram(kBounds);
    for (const double value : {0.5, 1.0, 2.0, 100.0}) histogram.add(value);
    Exposition page;
    page.histogram("h", "ms as s", histogram, {}, 0.001);
    const std::string text = page.text();
    CHECK(text.find("h_count 4\n") != text.npos);
    CHECK(text.find("h_sum 0.1035\n") != text.npos);
    CHECK(text.find("h_bucket{le=\"0.001\"} 2\n") != text.npos);
    CHECK(text.find("h_bucket{le=\"0.01\"} 3\n") != text.npos);
    CHECK(text.find("h_bucket{le=\"+Inf\"} 4\n") != text.npos);
}

TEST_CASE("a label's value may be anything") {
    Exposition page;
    page.gauge("a", "An a", 1, {{"worker_id", "q\" b\\ n\n"}});
    CHECK(page.text().find("a{worker_id=\"q\\\" b\\\\ n\\n\"} 1\n") != std::string::npos);
}
