// What libmicrohttpd calls, within MHD_run. Nothing here calls the owner but on_head: whole
// requests and lost clients wait for the end of the turn.
#include <sys/epoll.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "address.hpp"
#include "chatloop/core/limits.hpp"
#include "server_impl.hpp"

namespace chatloop::http {

namespace {

std::string lower_case(const char* text) {
    std::string lower = text;
    for (char& c : lower)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return lower;
}

MHD_Result take_header(void* context, MHD_ValueKind, const char* name, const char* value) {
    auto* request = static_cast<Request*>(context);
    request->headers.emplace_back(lower_case(name), value == nullptr ? "" : value);
    return MHD_YES;
}

MHD_Result take_query(void* context, MHD_ValueKind, const char* name, const char* value) {
    auto* request = static_cast<Request*>(context);
    request->query.emplace(name, value == nullptr ? "" : value);
    return MHD_YES;
}

uint64_t declared_length(const Request& request) {
    const std::string_view text = request.header("content-length");
    uint64_t length = 0;
    std::from_chars(text.data(), text.data() + text.size(), length);
    return length;
}

const Problem kTooLarge{413, "the body is larger than " + std::to_string(kHttpBodyBytesMax) +
                                 " bytes", "", "body_too_large"};

}  // namespace

void Server::Impl::on_connection(MHD_Connection* handle, void** socket_context, bool started) {
    if (!started) {
        auto* connection = static_cast<Connection*>(*socket_context);
        if (connection == nullptr) return;
        epoll_ctl(side_epoll_fd, EPOLL_CTL_DEL, connection->fd, nullptr);
        if (connection->exchange == nullptr) idle.erase(connection->idle_at);
        connections.erase(connection->id);
        counters.connections = connections.size();
        return;
    }
    auto connection = std::make_unique<Connection>();
    connection->id = ++last_id;
    connection->fd = MHD_get_connection_info(handle, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    connection->peer = address_text(
        MHD_get_connection_info(handle, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr, false);
    connection->since = now;
    connection->idle_at = idle.insert(idle.end(), connection->id);
    epoll_event event{};
    event.events = EPOLLRDHUP | EPOLLET;
    event.data.u64 = connection->id;
    epoll_ctl(side_epoll_fd, EPOLL_CTL_ADD, connection->fd, &event);
    *socket_context = connection.get();
    connections[connection->id] = std::move(connection);
    counters.connections = connections.size();
    ++counters.connections_total;
    // One that does nothing makes room for one that may.
    if (connections.size() > kHttpConnectionsMax && !idle.empty())
        close(*connections.at(idle.front()));
}

MHD_Result Server::Impl::on_access(MHD_Connection* handle, void** context, const char* method,
                                   const char* path, const char* upload, size_t* upload_size) {
    if (*context == nullptr) return on_headers(handle, context, method, path);
    Exchange& exchange = *static_cast<Exchange*>(*context);
    if (*upload_size > 0) {
        const size_t size = std::exchange(*upload_size, 0);
        return on_body(exchange, upload, size);
    }
    return on_whole(exchange);
}

MHD_Result Server::Impl::on_headers(MHD_Connection* handle, void** context, const char* method,
                                    const char* path) {
    auto* connection = static_cast<Connection*>(
        MHD_get_connection_info(handle, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context);
    if (connection == nullptr) return MHD_NO;
    auto owned = std::make_unique<Exchange>();
    Exchange& exchange = *owned;
    exchange.id = ++last_id;
    exchange.connection = connection->id;
    exchange.handle = handle;
    exchange.request.method = method;
    exchange.request.path = path;
    exchange.request.peer = connection->peer;
    MHD_get_connection_values(handle, MHD_HEADER_KIND, take_header, &exchange.request);
    MHD_get_connection_values(handle, MHD_GET_ARGUMENT_KIND, take_query, &exchange.request);
    exchanges[exchange.id] = std::move(owned);
    idle.erase(connection->idle_at);
    connection->exchange = &exchange;
    connection->since = now;
    *context = &exchange;
    ++counters.requests;
    if (std::optional<Response> response = refusal(exchange.request)) {
        // A response before the body closes the connection behind it, as is right for a request
        // whose end is in doubt.
        refuse(exchange, std::move(*response));
        return queue_response(exchange);
    }
    if (!events.on_head) return MHD_NO;
    if (std::optional<Response> response = events.on_head(exchange.request)) {
        refuse(exchange, std::move(*response));
    } else if (declared_length(exchange.request) > kHttpBodyBytesMax) {
        refuse(exchange, problem_response(kTooLarge));
    }
    // A client that waits for "100 Continue" need not send what is refused, and one that would send
    // very much is not listened to.
    const bool waits = exchange.refused && !exchange.request.header("expect").empty();
    if (waits || declared_length(exchange.request) > kHttpDiscardBytesMax)
        return queue_response(exchange);
    return MHD_YES;
}

// Requests whose end two servers could see at different places (RFC 9112, 6.1 and 6.3).
std::optional<Response> Server::Impl::refusal(const Request& request) const {
    const auto bad = [](int status, const std::string& what) {
        Response response = problem_response({status, what, "", "malformed_request"});
        response.headers.emplace_back("Connection", "close");  // what follows may be its body
        return response;
    };
    // Other servers may see a length where libmicrohttpd sees none.
    for (const auto& [name, value] : request.headers)
        if (name.find_first_of(" \t") != name.npos)
            return bad(400, "white space in a header's name");
    const size_t encodings = request.count("transfer-encoding");
    const size_t lengths = request.count("content-length");
    if (encodings > 0 && lengths > 0)
        return bad(400, "both Transfer-Encoding and Content-Length");
    if (lengths > 1) return bad(400, "more than one Content-Length");
    if (encodings > 1 ||
        (encodings == 1 && lower_case(std::string(request.header("transfer-encoding")).c_str()) !=
                               "chunked"))
        return bad(501, "the only Transfer-Encoding is chunked");
    const std::string_view length = request.header("content-length");
    const bool digits = std::all_of(length.begin(), length.end(),
                                    [](char c) { return c >= '0' && c <= '9'; });
    if (lengths == 1 && (!digits || length.empty() || length.size() > 18))
        return bad(400, "Content-Length is no length");
    if (request.method == "POST" && encodings + lengths == 0)
        return bad(411, "neither Content-Length nor Transfer-Encoding");
    return std::nullopt;
}

void Server::Impl::refuse(Exchange& exchange, Response response) {
    ++counters.refused;
    exchange.refused = true;
    exchange.response = std::move(response);
    drop_body(exchange);
    exchange.request.body = {};
}

MHD_Result Server::Impl::on_body(Exchange& exchange, const char* upload, size_t size) {
    exchange.body_bytes += size;
    if (exchange.body_bytes > kHttpDiscardBytesMax) return MHD_NO;
    if (exchange.refused) return MHD_YES;
    if (exchange.body_bytes > kHttpBodyBytesMax) {
        refuse(exchange, problem_response(kTooLarge));
    } else if (exchange.request.body.size() + size > kHttpSmallBodyBytes &&
               bodies_bytes + size > kHttpBodiesBytesMax) {
        refuse(exchange, problem_response({503, "too many large requests are coming in", "",
                                           "server_busy", kAgainMs}));
    } else {
        bodies_bytes += size;
        exchange.request.body.append(upload, size);
    }
    return MHD_YES;
}

// The request is whole; called again whenever the connection is resumed.
MHD_Result Server::Impl::on_whole(Exchange& exchange) {
    if (exchange.closes) return MHD_NO;
    if (exchange.response) return queue_response(exchange);
    if (!exchange.handed_over) {
        exchange.handed_over = true;
        arrived.push_back(exchange.id);
        if (connections.at(exchange.connection)->peer_closed) {
            lose(exchange);
            return MHD_NO;
        }
    }
    suspend(exchange);
    return MHD_YES;
}

MHD_Result Server::Impl::queue_response(Exchange& exchange) {
    Response& head = *exchange.response;
    MHD_Response* response = nullptr;
    const bool large = !exchange.streams && head.body.size() > kHttpSendBytes;
    if (large) {  // what a client has not taken is counted, and not copied
        exchange.stream = std::move(head.body);
        exchange.ended = true;
        exchange.progress_at = now;
        streams_bytes += exchange.stream.size();
        shed_streams();
        if (exchange.closes) return MHD_NO;
    }
    if (exchange.streams || large) {
        const auto read = [](void* context, uint64_t, char* buffer, size_t size) {
            const auto& [impl, stream] = *static_cast<std::pair<Impl*, Exchange*>*>(context);
            return impl->read_stream(*stream, buffer, size);
        };
        const auto free_context = [](void* context) {
            delete static_cast<std::pair<Impl*, Exchange*>*>(context);
        };
        response = MHD_create_response_from_callback(
            large ? exchange.stream.size() : MHD_SIZE_UNKNOWN, kHttpSendBytes, read,
            new std::pair<Impl*, Exchange*>(this, &exchange), free_context);
    } else {
        response = MHD_create_response_from_buffer(head.body.size(), head.body.data(),
                                                   MHD_RESPMEM_MUST_COPY);
    }
    if (response == nullptr) return MHD_NO;
    if (!head.type.empty()) MHD_add_response_header(response, "Content-Type", head.type.c_str());
    for (const auto& [name, value] : events.headers)
        MHD_add_response_header(response, name.c_str(), value.c_str());
    for (const auto& [name, value] : head.headers)
        MHD_add_response_header(response, name.c_str(), value.c_str());
    const MHD_Result queued =
        MHD_queue_response(exchange.handle, static_cast<unsigned>(head.status), response);
    MHD_destroy_response(response);
    exchange.response.reset();
    exchange.handed_over = true;
    if (!exchange.streams) exchange.over = true;
    return queued;
}

ssize_t Server::Impl::read_stream(Exchange& exchange, char* buffer, size_t size) {
    if (exchange.closes) return MHD_CONTENT_READER_END_WITH_ERROR;
    const size_t taken = std::min(size, exchange.waiting());
    if (taken > 0) {
        std::memcpy(buffer, exchange.stream.data() + exchange.sent, taken);
        exchange.sent += taken;
        exchange.progress_at = now;
        streams_bytes -= taken;
        if (exchange.waiting() == 0) {
            exchange.stream.clear();
            exchange.sent = 0;
        } else if (exchange.sent > exchange.stream.size() / 2) {
            exchange.stream.erase(0, exchange.sent);
            exchange.sent = 0;
        }
        return static_cast<ssize_t>(taken);
    }
    if (exchange.ended) return MHD_CONTENT_READER_END_OF_STREAM;
    suspend(exchange);
    return 0;
}

void Server::Impl::on_completed(void** context) {
    auto* exchange = static_cast<Exchange*>(*context);
    if (exchange == nullptr) return;
    *context = nullptr;
    if (exchange->handed_over && !exchange->over) {
        ++counters.clients_gone;
        gone.push_back(exchange->id);
    }
    drop_body(*exchange);
    streams_bytes -= exchange->waiting();
    const auto connection = connections.find(exchange->connection);
    if (connection != connections.end()) {
        connection->second->exchange = nullptr;
        connection->second->since = now;
        connection->second->idle_at = idle.insert(idle.end(), connection->second->id);
    }
    exchanges.erase(exchange->id);
    dirty = true;
}

MHD_Daemon* start_daemon(Server::Impl& impl) {
    const MHD_NotifyConnectionCallback on_connection =
        [](void* self, MHD_Connection* handle, void** context,
           MHD_ConnectionNotificationCode code) {
            static_cast<Server::Impl*>(self)->on_connection(
                handle, context, code == MHD_CONNECTION_NOTIFY_STARTED);
        };
    const MHD_RequestCompletedCallback on_completed =
        [](void* self, MHD_Connection*, void** context, MHD_RequestTerminationCode) {
            static_cast<Server::Impl*>(self)->on_completed(context);
        };
    const MHD_AccessHandlerCallback on_access =
        [](void* self, MHD_Connection* handle, const char* path, const char* method, const char*,
           const char* upload, size_t* upload_size, void** context) {
            return static_cast<Server::Impl*>(self)->on_access(handle, context, method, path,
                                                               upload, upload_size);
        };
    constexpr unsigned kMoreForEviction = 64;
    constexpr unsigned kTimeoutSecs = static_cast<unsigned>(kHttpStallUs / kSecondUs) + 15;
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, nullptr, nullptr, on_access, &impl,
        MHD_OPTION_LISTEN_SOCKET, impl.listen_fd, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        &impl, MHD_OPTION_NOTIFY_COMPLETED, on_completed, &impl, MHD_OPTION_CONNECTION_LIMIT,
        kHttpConnectionsMax + kMoreForEviction, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        kHttpPeerConnectionsMax, MHD_OPTION_CONNECTION_MEMORY_LIMIT, kHttpHeaderBytesMax,
        MHD_OPTION_CONNECTION_TIMEOUT, kTimeoutSecs, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
}

}  // namespace chatloop::http
