// How streams leave; and resumable ones, which go on for a while without their client and give it
// what it has not seen when it comes back (docs/http.md, "Resumable streams").
#include "chatloop/core/limits.hpp"
#include "chatloop/http/api.hpp"

namespace chatloop::http {

namespace {

constexpr std::string_view kStreams = "/streams/";

Response stream_head(const std::string& request_header) {
    return {200,
            "text/event-stream; charset=utf-8",
            "",
            {{"Cache-Control", "no-cache"},
             {"X-Accel-Buffering", "no"},
             {"x-request-id", request_header}}};
}

std::string key_of(const Request& request) {
    return request.path.substr(request.path.rfind('/') + 1);
}

Response again_soon() {
    return problem_response({503, "the stream goes on in a moment, behind a restart: ask again", "",
                             "restarting", kAgainMs});
}

}  // namespace

void Api::serve_streams(Site& site) {
    for (const std::string version : {"/v1", ""}) {
        const std::string path = version + std::string(kStreams) + "*";
        site.add("GET", path, Access::kKey, [this](ExchangeId id, Request& request, TimeUs now) {
            return on_reconnect(id, request, now);
        });
        site.add("DELETE", path, Access::kKey, [this](ExchangeId, Request& request, TimeUs now) {
            return std::optional<Response>(on_delete(request, now));
        });
    }
}

// ---- what leaves ----

// False: the stream cannot be kept as it was asked for, and the job has failed.
bool Api::start_stream(Job& job, const wire::Accepted& accepted, TimeUs now) {
    Response head = stream_head(job.request_header);
    if (job.ask.resumable) {
        if (streams_.size() >= kHttpStreamsKeptMax) {
            fail(job, {429, "too many requests are running", "", "queue_full", kAgainMs}, now);
            return false;
        }
        const std::string key = config_.stream_key();
        if (const Status kept = begin_journal(job, key, accepted); !kept) {
            fail(job, {503, kept.error().message, "stream_options.resumable",
                       "journal_unavailable", kAgainMs}, now);
            return false;
        }
        Stream& stream = open_stream(job, key);
        stream.has_file = stream.kept = config_.journal != nullptr;
        stream.exchange = job.exchange;
        attached_[job.exchange] = key;
        head.headers.emplace_back("Content-Location", "/v1" + std::string(kStreams) + key);
    }
    job.streams = true;
    job.wrote_at = now;
    responder_.start_stream(job.exchange, std::move(head));
    return true;
}

Api::Stream& Api::open_stream(Job& job, const std::string& key) {
    Stream& stream =
        streams_.try_emplace(key, key, job.ask.parameters.n, kept_bytes_).first->second;
    stream.request_header = job.request_header;
    stream.job = job.exchange;
    job.stream = &stream;
    return stream;
}

void Api::write(Job& job, std::string_view bytes, TimeUs now) {
    job.wrote_at = now;
    const ExchangeId reader = job.stream == nullptr ? job.exchange : job.stream->exchange;
    if (reader != kNobody) responder_.write(reader, bytes);
}

void Api::send_event(Job& job, uint32_t choice, const std::string& event, TimeUs now) {
    write(job, job.stream == nullptr ? event : job.stream->log.add(choice, event), now);
}

void Api::end_stream(Job& job, TimeUs now) {
    if (job.stream == nullptr) return responder_.end(job.exchange);
    Stream& stream = *job.stream;
    job.stream = nullptr;
    stream.job = kNobody;
    if (stream.has_file) config_.journal->close(stream.key);
    if (stream.exchange != kNobody) responder_.end(stream.exchange);
    detach(stream, now);
}

// Its client is gone, or has all there is.
void Api::detach(Stream& stream, TimeUs now) {
    attached_.erase(stream.exchange);
    stream.exchange = kNobody;
    stream.until = now + kHttpResumeUs;
}

// Its reader's connection ends without the end of the stream.
void Api::cut_off(Stream& stream) {
    if (stream.exchange == kNobody) return;
    responder_.abort(stream.exchange);
    attached_.erase(stream.exchange);
    stream.exchange = kNobody;
}

// ---- who comes back ----

Response Api::not_here(const Request& request) const {
    if (suspended_.contains(key_of(request))) return again_soon();
    return problem_response({404, "there is no such stream, or no more", "", "not_found"});
}

Api::Stream* Api::find_stream(const Request& request) {
    const auto found = streams_.find(key_of(request));
    return found == streams_.end() ? nullptr : &found->second;
}

std::optional<Response> Api::on_reconnect(ExchangeId id, const Request& request, TimeUs now) {
    Stream* stream = find_stream(request);
    if (stream == nullptr) return not_here(request);
    std::vector<Place> seen = stream->log.beginning();
    if (const std::string_view last = request.header("last-event-id"); !last.empty()) {
        const auto read = read_id(last, seen.size());
        const bool is_ahead = read && stream->log.reach(*read) == EventLog::Reach::kAhead;
        // What the process before this one had sent and not kept comes again, unless it failed.
        if (is_ahead && stream->restored && stream->job != kNobody) return again_soon();
        if (is_ahead && stream->restored)
            return problem_response({410, "the answer has ended before it was that far again",
                                     "Last-Event-ID", "stream_gone"});
        if (!read || is_ahead)
            return problem_response({400, "Last-Event-ID is no id of this stream's events",
                                     "Last-Event-ID", "invalid_request"});
        seen = *read;
    }
    if (stream->log.reach(seen) == EventLog::Reach::kDropped)
        return problem_response({410, "the events behind Last-Event-ID are kept no more",
                                 "Last-Event-ID", "stream_gone"});
    Response head = stream_head(stream->request_header);
    if (request.method == "HEAD") return head;
    const std::string behind = stream->log.behind(seen);
    if (stream->job == kNobody && behind.empty()) return Response{204, "", "", {}};
    cut_off(*stream);  // the connection may be lost without that it shows yet
    stream->exchange = id;
    responder_.start_stream(id, std::move(head));
    responder_.write(id, behind);  // not in the head: what is written counts as waiting
    if (stream->job == kNobody) {
        responder_.end(id);
        detach(*stream, now);
    } else {
        attached_[id] = stream->key;
        stream->until = kNever;
        jobs_.at(stream->job)->wrote_at = now;
    }
    return std::nullopt;
}

// A client that wants no more says so, because its going does not.
Response Api::on_delete(const Request& request, TimeUs now) {
    Stream* stream = find_stream(request);
    if (stream == nullptr) {
        const std::string key = key_of(request);
        if (suspended_.erase(key) == 0) return not_here(request);
        config_.journal->drop(key);
        return Response{204, "", "", {}};
    }
    drop(*stream, now);
    return Response{204, "", "", {}};
}

void Api::drop(Stream& stream, TimeUs now) {
    cut_off(stream);
    if (stream.job != kNobody) {
        Job& job = *jobs_.at(stream.job);
        cancel(job, now);
        forget(job);
    }
    if (stream.has_file) config_.journal->drop(stream.key);
    streams_.erase(std::string(stream.key));
}

void Api::expire_streams(TimeUs now) {
    std::vector<std::string> over;
    for (const auto& [key, stream] : streams_)
        if (stream.until <= now) over.push_back(key);
    for (const std::string& key : over) drop(streams_.at(key), now);
}

}  // namespace chatloop::http
