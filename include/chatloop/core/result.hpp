// Result<T>: a value, or an Error that says what was wrong with the input. For everything that
// comes from the wire, a file or a user; a bug is asserted instead (assert.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "chatloop/core/assert.hpp"

namespace chatloop {

// One enum for the whole project. The names are part of the client protocol (docs/protocol.md).
enum class ErrorCode : uint8_t {
    kInvalidRequest,   // a field is missing, of the wrong type or out of range
    kPromptTooLong,    // prompt and one token can never fit the context or the KV pool
    kNotUtf8,          // text that is not UTF-8
    kUnknownModel,     // the request names another model than the one served
    kDuplicateId,      // a request of that id is already running for this client
    kQueueFull,        // more waiting requests than max_queue_size
    kQueueTimeout,     // no place within the router's queue_timeout_ms
    kDeadlineExceeded, // the request's deadline_ms is over
    kNoRoute,          // no complete set of workers within the waiting bound
    kWorkerLost,       // a worker of the route died or restarted
    kPoison,           // two workers died while they computed this request alone
    kNonFinite,        // the model produced a logit that is not finite
    kDraining,         // the router is shutting down
    kClientLost,       // the client is silent, gone, or does not read
    kFingerprint,      // a resumed request was computed under another numerics fingerprint
    kMalformed,        // bytes that are not a message of the protocol
    kBadFile,          // a model or configuration file that cannot be used
    kUnsupported,      // a CPU, format or option that this build does not serve
    kPortInUse,        // an endpoint that another process has
    kInternal,         // a bug that was contained
};

// The name that clients see, e.g. "prompt_too_long".
std::string_view error_name(ErrorCode code);

// Whether the same request may succeed when it is sent again.
bool error_retryable(ErrorCode code);

struct Error {
    ErrorCode code = ErrorCode::kInternal;
    std::string message;  // one line: the cause, and the cure where there is one
    uint32_t retry_after_ms = 0;  // when it pays to ask again; 0: not known
};

template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::move(value)) {}
    Result(Error error) : state_(std::move(error)) {}

    bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    T& value() {
        CL_ASSERT(ok());
        return std::get<0>(state_);
    }
    const T& value() const {
        CL_ASSERT(ok());
        return std::get<0>(state_);
    }
    T& operator*() { return value(); }
    const T& operator*() const { return value(); }
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }

    const Error& error() const {
        CL_ASSERT(!ok());
        return std::get<1>(state_);
    }

private:
    std::variant<T, Error> state_;
};

struct Ok {};
using Status = Result<Ok>;

}  // namespace chatloop
