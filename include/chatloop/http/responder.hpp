// How an answer leaves: Server does it for the exchanges that it brought, a fake in tests.
#pragma once

#include <cstdint>
#include <string_view>

#include "chatloop/http/message.hpp"

namespace chatloop::http {

using ExchangeId = uint64_t;  // one request and its response; never used again

// Each call is without effect for an exchange that is over.
class Responder {
public:
    virtual ~Responder() = default;

    virtual void respond(ExchangeId id, Response response) = 0;
    virtual void start_stream(ExchangeId id, Response head) = 0;  // its body is the beginning
    virtual void write(ExchangeId id, std::string_view bytes) = 0;
    virtual void end(ExchangeId id) = 0;    // of a stream: all that was written goes out first
    virtual void abort(ExchangeId id) = 0;  // closes the connection
};

}  // namespace chatloop::http
