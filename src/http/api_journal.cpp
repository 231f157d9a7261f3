// Resumable streams across a restart of the router: what is written down, and how a stream is made
// again of it (docs/http.md, "Resumable streams"). The router takes up the answer as a client's
// RESUME; what it says again of what is known already is left out (Heard).
#include <algorithm>
#include <utility>

#include "chatloop/core/limits.hpp"
#include "chatloop/http/api.hpp"

namespace chatloop::http {

namespace {

constexpr TimeUs kResumeAgainUs = kSecondUs;

}  // namespace

size_t Api::journaled() const {
    return static_cast<size_t>(std::count_if(streams_.begin(), streams_.end(),
                                             [](const auto& one) { return one.second.kept; }));
}

// ---- what is written ----

Status Api::begin_journal(const Job& job, const std::string& key,
                          const wire::Accepted& accepted) {
    if (config_.journal == nullptr) return Ok{};
    StreamHead head;
    head.surface = job.ask.surface;
    head.include_usage = job.ask.include_usage;
    head.has_tools = !job.ask.parameters.tools.empty();
    head.key = key;
    head.peer = job.client.substr(kClientPrefix.size());
    head.request_header = job.request_header;
    head.id = job.head.id;
    head.created = job.head.created;
    head.parameters = job.ask.parameters;
    head.parameters.tools.clear();
    head.parameters.chat_template_kwargs.clear();
    return config_.journal->begin(key, journal_begin(head, accepted));
}

// Before anything of it is sent: so a client has rarely seen more than a restarted router knows.
void Api::keep(const std::string& request_id, const wire::RouterBody& message) {
    if (config_.journal == nullptr) return;
    Part* part = nullptr;
    const Job* job = find(request_id, &part);
    if (job == nullptr || job->stream == nullptr || !job->stream->kept) return;
    Stream& stream = *job->stream;
    stream.kept = config_.journal->append(stream.key, journal_message(message));
}

// An error that is not the end of a journaled stream: this process goes and the next one takes it
// up, or the router has no place for a restored one yet.
bool Api::puts_off(const wire::Failure& failure, TimeUs now) {
    Part* part = nullptr;
    Job* job = failure.request_id ? find(*failure.request_id, &part) : nullptr;
    if (job == nullptr || job->stream == nullptr) return false;
    if (job->resume != nullptr && failure.code == error_name(ErrorCode::kQueueFull)) {
        put_off_.push_back(job->exchange);
        resume_at_ = now + kResumeAgainUs;
        return true;
    }
    if (!job->stream->has_file || failure.code != error_name(ErrorCode::kDraining)) return false;
    suspend(*job);
    return true;
}

// Its client loses its connection, as it would by a crash.
void Api::suspend(Job& job) {
    Stream& stream = *job.stream;
    cut_off(stream);
    const std::string key = stream.key;
    forget(job);
    streams_.erase(key);
    suspended_.insert(key);
}

// ---- what is read ----

std::optional<Api::Restored> Api::restore(wire::ByteView journal) {
    constexpr TimeUs kBeforeTime = 0;  // settle_restored
    if (jobs_.size() >= kHttpJobsMax || streams_.size() >= kHttpStreamsKeptMax) return Restored{};
    std::optional<JournaledStream> kept = read_journal(journal);
    if (!kept || streams_.contains(kept->head.key) || by_request_.contains(kept->head.id))
        return std::nullopt;
    StreamHead& head = kept->head;
    const ExchangeId id = ++last_restored_;
    Job& job = *(jobs_[id] = std::make_unique<Job>());
    job.exchange = id;
    job.client = std::string(kClientPrefix) + head.peer;
    job.ask.surface = head.surface;
    job.ask.stream = job.ask.resumable = true;
    job.ask.include_usage = head.include_usage;
    job.ask.parameters = std::move(head.parameters);
    job.head = {head.surface, head.id, head.created, kept->accepted.model,
                "fp_" + kept->accepted.fingerprint, head.include_usage};
    job.head.text_chunk_begin = text_chunk_begin(job.head);
    job.request_header = head.request_header;
    job.streams = true;
    job.taken_up = kept->taken_up;
    job.parts.resize(1);
    make_part(job, 0, head.has_tools);
    ++clients_[job.client];
    Stream& stream = open_stream(job, head.key);
    stream.restored = true;

    auto resume = std::make_unique<wire::Resume>();
    resume->request_id = head.id;
    resume->parameters = job.ask.parameters;
    resume->progress = {kept->accepted.prompt_ids,
                        std::vector<std::vector<uint32_t>>(job.ask.parameters.n),
                        kept->accepted.seed, kept->accepted.fingerprint};
    say(kept->accepted, kBeforeTime);
    for (const wire::RouterBody& message : kept->messages) {
        say(message, kBeforeTime);
        const auto* piece = std::get_if<wire::Piece>(&message);
        if (piece == nullptr) continue;
        std::vector<uint32_t>& tokens = resume->progress.choices.at(piece->choice);
        if (tokens.size() == piece->index)
            tokens.insert(tokens.end(), piece->token_ids.begin(), piece->token_ids.end());
    }
    stream.has_file = stream.kept = config_.journal != nullptr;
    const Restored restored{head.key, kept->bytes, !jobs_.contains(id)};
    if (restored.has_ended) return restored;
    if (job.parts[0].prompt_entries == kept->accepted.prompt_ids.size())
        resume->parameters.prompt_logprobs.reset();
    job.resume = std::move(resume);
    put_off_.push_back(id);
    return restored;
}

// Once all are there, which may have taken a while: clients have their time from now on.
void Api::settle_restored(TimeUs now) {
    if (std::exchange(has_settled_, true)) return;
    for (auto& [key, stream] : streams_)
        if (stream.restored && stream.exchange == kNobody) stream.until = now + kHttpResumeUs;
}

void Api::resume_put_off(TimeUs now) {
    for (size_t i = 0; i < kResumesPerTick && !put_off_.empty() && now >= resume_at_; ++i) {
        const ExchangeId id = put_off_.front();
        put_off_.pop_front();
        resume_one(*jobs_.at(id), now);
    }
}

// What ends the process again and again, or fits no message, ends here.
void Api::resume_one(Job& job, TimeUs now) {
    Stream& stream = *job.stream;
    wire::Failure failure;
    failure.request_id = job.resume->request_id;
    const wire::Resume resume = *job.resume;
    if (job.taken_up >= kTakenUpMax) {
        failure.code = error_name(ErrorCode::kPoison);
        failure.message = "the router has ended " + std::to_string(job.taken_up) +
                          " times since it took this answer up";
    } else if (wire::encode_client(resume).size() > kFrontBytesMax) {
        failure.code = error_name(ErrorCode::kUnsupported);
        failure.message = "what is known of the answer is too large to be taken up";
    } else {
        if (!std::exchange(stream.noted, true))
            stream.kept = stream.kept && config_.journal->append(stream.key, journal_taken_up());
        return to_router_(std::string(job.client), resume, now);
    }
    say(failure, now);
}

}  // namespace chatloop::http
