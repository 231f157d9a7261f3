// What a line of the log is about, when it is about a request.
#pragma once

#include <string>
#include <utility>

namespace chatloop {

struct LogSpan {
    std::string request_id;
    std::string trace_id;

    LogSpan(const char* id = "") : request_id(id) {}
    LogSpan(std::string id, std::string trace = {})
        : request_id(std::move(id)), trace_id(std::move(trace)) {}
    operator const std::string&() const { return request_id; }
};

}  // namespace chatloop
