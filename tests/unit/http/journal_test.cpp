// Resumable streams across a restart of the router (docs/http.md): an answer is cut anywhere, its
// journal too, and another Api carries on.
#include <doctest/doctest.h>

#include <algorithm>

#include "api_harness.hpp"
#include "chatloop/core/limits.hpp"

using namespace chatloop;
using namespace chatloop::http;

namespace {

constexpr ExchangeId kFirst = 1;

class FakeJournal final : public Journal {
public:
    std::map<std::string, wire::Bytes> files;
    std::vector<size_t> ends;  // of what was written of the one file, call by call
    bool begins = true;
    bool appends = true;

    Status begin(const std::string& key, wire::ByteView records) override {
        if (!begins) return Error{ErrorCode::kQueueFull, "the disk is full"};
        files[key].assign(records.begin(), records.end());
        ends.push_back(records.size());
        return Ok{};
    }
    bool append(const std::string& key, wire::ByteView records) override {
        if (!appends) return false;
        wire::Bytes& file = files.at(key);
        file.insert(file.end(), records.begin(), records.end());
        ends.push_back(file.size());
        return true;
    }
    void drop(const std::string& key) override { files.erase(key); }
};

// A process of the router: its Api, the journal's folder, a client's exchanges.
struct Process {
    CharText text;
    FakeResponder responder;
    FakeJournal& journal;
    std::vector<std::pair<std::string, wire::ClientBody>> sent;
    Api api;
    Site site;
    ExchangeId last = kFirst;

    Process(FakeJournal& kept, int64_t unix_time)
        : journal(kept),
          api(ApiConfig{"m", 64, "00112233445566aa", static_cast<uint64_t>(unix_time),
                        [unix_time] { return unix_time; }, [] { return std::string("abc"); },
                        30 * kSecondUs, &journal},
              responder, text,
              [this](const std::string& client, const wire::ClientBody& body, TimeUs) {
                  sent.emplace_back(client, body);
              }) {
        api.serve(site);
    }
    int ask(const std::string& method, const std::string& path, const std::string& body,
            const std::string& seen = {}) {
        Request request;
        request.method = method;
        request.path = path;
        request.peer = "10.0.0.1";
        request.body = body;
        if (!seen.empty()) request.headers = {{"last-event-id", seen}};
        REQUIRE_FALSE(site.on_head(request));
        if (auto response = site.on_request(++last, request, 0)) responder.respond(last, *response);
        return responder.answers.contains(last) ? responder.answers.at(last).head.status : 0;
    }
    const std::string& body() { return responder.answers.at(last).body; }
    template <class T>
    std::vector<T> all() const {
        std::vector<T> found;
        for (const auto& [client, message] : sent)
            if (const T* one = std::get_if<T>(&message)) found.push_back(*one);
        return found;
    }
};

// One answer: what is asked, and what a router says that is not disturbed.
struct Answer {
    std::string path;
    std::string body;
    std::vector<wire::RouterBody> said;  // of request "r", whose true id is put in
};

wire::Piece piece(uint32_t choice, uint32_t index, uint64_t offset, const std::string& text,
                  bool has_token = true) {
    wire::Piece piece;
    piece.choice = choice;
    piece.index = index;
    piece.text_offset = offset;
    piece.text = text;
    if (has_token) piece.token_ids = {index + 40};
    return piece;
}

wire::RouterBody with_id(wire::RouterBody message, const std::string& id) {
    std::visit([&id](auto& one) {
        if constexpr (requires { one.request_id; }) one.request_id = id;
    }, message);
    return message;
}

wire::Accepted accepted() {
    wire::Accepted message;
    message.prompt_ids = {1, 2, 3};
    message.seed = 9;
    message.fingerprint = "00112233445566aa";
    message.model = "m";
    return message;
}

Answer two_choices() {
    return {"/v1/chat/completions",
            R"({"messages": [{"role": "user", "content": "a"}], "n": 2, "stream": true,
                "stream_options": {"include_usage": true, "resumable": true}})",
            {accepted(), piece(0, 0, 0, "a"), piece(1, 0, 0, "x"), piece(1, 1, 1, ""),
             piece(1, 2, 1, "yz"), piece(1, 3, 3, "held back", false),
             wire::ChoiceDone{"", 1, "stop", {}, 3}, piece(0, 1, 1, "b"),
             wire::ChoiceDone{"", 0, "length", {}, 2},
             wire::Done{"", "length", {}, 3, 0, 5, 0, 0, 0}}};
}

Answer with_logprobs() {
    const auto entry = [](uint32_t id) {
        return wire::TokenEntry{id, -0.5f, {{id, -0.5f}}};
    };
    Answer answer{"/v1/completions",
                  R"({"prompt": "abc", "echo": true, "logprobs": 1, "stream": true,
                      "stream_options": {"resumable": true}})",
                  {accepted()}};
    std::get<wire::Accepted>(answer.said[0]).prompt_text = "abc";
    answer.said.push_back(wire::PromptPiece{"", 0, {std::nullopt}});
    answer.said.push_back(wire::PromptPiece{"", 1, {entry(2), entry(3)}});
    for (uint32_t i = 0; i < 3; ++i) {
        wire::Piece one = piece(0, i, 2 * i, "wo");
        one.logprobs = {entry(i + 40)};
        answer.said.push_back(one);
    }
    answer.said.push_back(wire::Done{"", "length", {}, 3, 0, 3, 0, 0, 0});
    return answer;
}

Answer with_tools() {
    Answer answer{"/v1/chat/completions",
                  R"({"messages": [{"role": "user", "content": "a"}], "stream": true,
                      "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
                      "stream_options": {"resumable": true}})",
                  {accepted()}};
    uint32_t index = 0;
    uint64_t offset = 0;
    for (const std::string text : {"so ", "<tool_call>\n{\"name\": \"f\", ", "\"arguments\": {\"a\"",
                                   ": 1}}\n", "</tool_call>"}) {
        answer.said.push_back(piece(0, index++, offset, text));
        offset += text.size();
    }
    answer.said.push_back(wire::Done{"", "stop", {}, 3, 0, index, 0, 0, 0});
    return answer;
}

Answer executed() {
    return {"/execute", R"({"prompt": "abc", "stream": true, "stream_options": {"resumable": true}})",
            {accepted(), piece(0, 0, 0, "a"), piece(0, 1, 1, "b"),
             wire::Done{"", "stop", uint32_t{7}, 3, 0, 2, 0, 0, 0}}};
}

Answer failing() {
    Answer answer = two_choices();
    answer.said.resize(5);
    wire::Failure failure;
    failure.code = "no_route";
    failure.message = "nobody is there";
    answer.said.push_back(failure);
    return answer;
}

const std::vector<Answer> kAnswers = {two_choices(), with_logprobs(), with_tools(), executed(),
                                      failing()};

// What a router says to RESUME: what its tokens do not tell.
void take_up(Process& process, const Answer& answer, const wire::Resume& resume) {
    for (const wire::RouterBody& message : answer.said) {
        const auto* one = std::get_if<wire::Piece>(&message);
        const bool is_known = one != nullptr && !one->token_ids.empty() &&
                              one->index < resume.progress.choices.at(one->choice).size();
        const bool is_unasked = std::holds_alternative<wire::PromptPiece>(message) &&
                                !resume.parameters.prompt_logprobs;
        if (!is_known && !is_unasked)
            process.api.on_router(with_id(message, resume.request_id), 0);
    }
}

std::vector<std::string> events_of(const std::string& stream) {
    std::vector<std::string> events;
    for (size_t at = 0; at < stream.size();) {
        const size_t end = stream.find("\n\n", at) + 2;
        events.push_back(stream.substr(at, end - at));
        at = end;
    }
    return events;
}

std::string id_of(const std::string& event) { return event.substr(4, event.find('\n') - 4); }

std::string joined(const std::vector<std::string>& events, size_t first, size_t end) {
    std::string text;
    for (size_t i = first; i < end; ++i) text += events[i];
    return text;
}

// The whole stream of an undisturbed process, and how many events had come after each message.
std::string whole(const Answer& answer, FakeJournal& journal, std::vector<size_t>& events) {
    Process process(journal, 1000);
    process.ask("POST", answer.path, answer.body);
    const std::string id = process.all<wire::Submit>().at(0).request_id;
    for (const wire::RouterBody& message : answer.said) {
        process.api.on_router(with_id(message, id), 0);
        events.push_back(events_of(process.body()).size());
    }
    return process.body();
}

constexpr char kAddress[] = "/v1/streams/abc";

}  // namespace

TEST_CASE("a router killed behind any message: the next one gives the same stream from any event") {
    for (const Answer& answer : kAnswers) {
        FakeJournal all;
        std::vector<size_t> sent;
        const std::string stream = whole(answer, all, sent);
        const std::vector<std::string> events = events_of(stream);
        REQUIRE(all.ends.size() == answer.said.size());
        for (size_t heard = 0; heard < answer.said.size(); ++heard) {
            for (size_t seen = 0; seen <= sent[heard]; ++seen) {
                for (const bool is_late : {false, true}) {
                    FakeJournal journal;
                    wire::Bytes& file = journal.files["abc"];
                    file.assign(all.files.at("abc").begin(),
                                all.files.at("abc").begin() +
                                    static_cast<std::ptrdiff_t>(all.ends[heard]));
                    const wire::Bytes bytes = file;
                    Process next(journal, 2000);
                    CHECK(next.api.restore("abc", bytes, 0) == bytes.size());
                    const auto resumes = next.all<wire::Resume>();
                    CHECK(resumes.size() == (heard + 1 < answer.said.size() ? 1 : 0));
                    if (is_late && !resumes.empty()) take_up(next, answer, resumes[0]);
                    const std::string last = seen == 0 ? "" : id_of(events[seen - 1]);
                    const int status = next.ask("GET", kAddress, "", last);
                    if (status == 204) {
                        CHECK(seen == events.size());
                        continue;
                    }
                    REQUIRE(status == 200);
                    if (!is_late && !resumes.empty()) take_up(next, answer, resumes[0]);
                    CHECK(joined(events, 0, seen) + next.body() == stream);
                    CHECK(next.responder.answers.at(next.last).ended);
                    CHECK(next.api.running() == 0);
                    CHECK(next.all<wire::Cancel>().empty());
                }
            }
        }
    }
}

TEST_CASE("any prefix of the journal will do, also for a client that has seen more") {
    for (const Answer& answer : kAnswers) {
        FakeJournal all;
        std::vector<size_t> sent;
        const std::string stream = whole(answer, all, sent);
        const std::vector<std::string> events = events_of(stream);
        const wire::Bytes& file = all.files.at("abc");
        for (size_t cut = 0; cut <= file.size(); ++cut) {
            FakeJournal journal;
            Process next(journal, 2000);
            const wire::Bytes bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(cut));
            journal.files["abc"] = bytes;
            const size_t used = next.api.restore("abc", bytes, 0);
            const auto whole_records =
                std::find_if(all.ends.rbegin(), all.ends.rend(),
                             [cut](size_t end) { return end <= cut; });
            CHECK(used == (whole_records == all.ends.rend() ? 0 : *whole_records));
            if (used == 0) {
                CHECK(next.ask("GET", kAddress, "") == 404);
                continue;
            }
            const auto resumes = next.all<wire::Resume>();
            if (resumes.empty()) continue;
            journal.files["abc"].resize(used);
            const size_t seen = cut % events.size();
            const std::string last = seen == 0 ? "" : id_of(events[seen - 1]);
            REQUIRE(next.ask("GET", kAddress, "", last) == 200);
            take_up(next, answer, resumes[0]);
            CHECK(joined(events, 0, seen) + next.body() == stream);
            // And once more: what was said twice is in the journal twice.
            Process third(journal, 3000);
            const wire::Bytes again = journal.files.at("abc");
            CHECK(third.api.restore("abc", again, 0) == again.size());
            CHECK(third.all<wire::Resume>().empty());
            CHECK(third.ask("GET", kAddress, "") == 200);
            CHECK(third.body() == stream);
        }
    }
}

TEST_CASE("a damaged byte costs what is behind it, never more") {
    FakeJournal all;
    std::vector<size_t> sent;
    const Answer answer = two_choices();
    whole(answer, all, sent);
    const wire::Bytes& file = all.files.at("abc");
    for (size_t at = 0; at < file.size(); ++at) {
        wire::Bytes damaged = file;
        damaged[at] ^= 0x10;
        FakeJournal journal;
        Process next(journal, 2000);
        const size_t used = next.api.restore("abc", damaged, 0);
        size_t before = 0;
        for (const size_t end : all.ends)
            if (end <= at) before = end;
        CHECK(used == before);
    }
}

TEST_CASE("the router hears what was asked, with all tokens that are known") {
    FakeJournal all;
    std::vector<size_t> sent;
    const Answer answer = with_logprobs();
    whole(answer, all, sent);
    FakeJournal journal;
    for (size_t heard = 0; heard < answer.said.size() - 1; ++heard) {
        Process next(journal, 2000);
        wire::Bytes bytes = all.files.at("abc");
        bytes.resize(all.ends[heard]);
        next.api.restore("abc", bytes, 0);
        const wire::Resume resume = next.all<wire::Resume>().at(0);
        CHECK(next.sent.at(0).first == std::string(kClientPrefix) + "10.0.0.1");
        CHECK(resume.progress.prompt_ids == std::vector<uint32_t>{1, 2, 3});
        CHECK(resume.progress.seed == 9);
        CHECK(resume.progress.fingerprint == "00112233445566aa");
        CHECK(resume.progress.choices.at(0).size() == (heard < 3 ? 0 : heard - 2));
        CHECK(resume.parameters.logprobs == 1);
        // Log-probabilities of the prompt are not computed twice.
        CHECK(resume.parameters.prompt_logprobs.has_value() == (heard < 2));
    }
}

TEST_CASE("a stream that cannot be written down is refused, one that breaks off goes on") {
    const Answer answer = two_choices();
    FakeJournal journal;
    journal.begins = false;
    Process process(journal, 1000);
    process.ask("POST", answer.path, answer.body);
    const std::string id = process.all<wire::Submit>().at(0).request_id;
    process.api.on_router(with_id(answer.said[0], id), 0);
    CHECK(process.responder.answers.at(process.last).head.status == 503);
    CHECK(process.body().find("journal_unavailable") != std::string::npos);
    CHECK(process.all<wire::Cancel>().at(0).request_id == id);
    CHECK(process.api.running() == 0);

    journal.begins = true;
    process.ask("POST", answer.path, answer.body);
    const std::string second = process.all<wire::Submit>().at(1).request_id;
    for (size_t i = 0; i < answer.said.size(); ++i) {
        if (i == 3) {
            CHECK(process.api.journaled() == 1);
            journal.appends = false;
        }
        if (i == 5) journal.appends = true;  // too late: there is a gap
        process.api.on_router(with_id(answer.said[i], second), 0);
    }
    CHECK(process.api.journaled() == 0);
    CHECK(process.responder.answers.at(process.last).ended);
    Process next(journal, 2000);
    const wire::Bytes bytes = journal.files.at("abc");
    CHECK(next.api.restore("abc", bytes, 0) == bytes.size());
    const wire::Resume resume = next.all<wire::Resume>().at(0);
    CHECK(resume.progress.choices.at(0).size() == 1);
    CHECK(resume.progress.choices.at(1).size() == 1);
}

TEST_CASE("the file goes with its stream: deleted, or not asked for") {
    const Answer answer = executed();
    for (const bool is_deleted : {true, false}) {
        FakeJournal journal;
        Process process(journal, 1000);
        process.ask("POST", answer.path, answer.body);
        const std::string id = process.all<wire::Submit>().at(0).request_id;
        process.api.on_router(with_id(answer.said[0], id), 0);
        CHECK(journal.files.size() == 1);
        process.api.on_gone(process.last, 0);
        CHECK(journal.files.size() == 1);
        if (is_deleted) CHECK(process.ask("DELETE", kAddress, "") == 204);
        else process.api.on_tick(2 * kHttpResumeUs);
        CHECK(journal.files.empty());
    }
}

TEST_CASE("a router that shuts down leaves its streams to the next one") {
    const Answer answer = executed();
    FakeJournal journal;
    Process process(journal, 1000);
    process.ask("POST", answer.path, answer.body);
    const ExchangeId reader = process.last;
    const std::string id = process.all<wire::Submit>().at(0).request_id;
    process.api.on_router(with_id(answer.said[0], id), 0);
    process.api.on_router(with_id(answer.said[1], id), 0);
    const std::string seen = process.body();
    wire::Failure draining;
    draining.request_id = id;
    draining.code = "draining";
    draining.retryable = true;
    process.api.on_router(draining, 0);
    CHECK(process.responder.answers.at(reader).ended);  // aborted, without a word
    CHECK(process.responder.answers.at(reader).body == seen);
    CHECK(process.api.running() == 0);
    Process next(journal, 2000);
    CHECK(next.api.restore("abc", journal.files.at("abc"), 0) > 0);
    CHECK(next.all<wire::Resume>().at(0).progress.choices.at(0).size() == 1);
}

TEST_CASE("a restored stream that the router has no place for asks again") {
    FakeJournal all;
    std::vector<size_t> sent;
    const Answer answer = executed();
    const std::string stream = whole(answer, all, sent);
    FakeJournal journal;
    Process next(journal, 2000);
    wire::Bytes bytes = all.files.at("abc");
    bytes.resize(all.ends[1]);
    journal.files["abc"] = bytes;
    next.api.restore("abc", bytes, 0);
    const std::string id = next.all<wire::Resume>().at(0).request_id;
    wire::Failure full;
    full.request_id = id;
    full.code = "queue_full";
    full.retryable = true;
    for (int again = 0; again < 3; ++again) {
        next.api.on_router(full, 0);
        CHECK(next.api.running() == 1);
        next.api.on_tick((again + 1) * 2 * kSecondUs);
        CHECK(next.all<wire::Resume>().size() == static_cast<size_t>(again) + 2);
    }
    CHECK(next.ask("GET", kAddress, "") == 200);
    take_up(next, answer, next.all<wire::Resume>().back());
    CHECK(next.body() == stream);
    // Accepted once, it fails as others do.
    CHECK(next.api.running() == 0);
}

TEST_CASE("nobody takes up a restored stream: it is cancelled and forgotten") {
    FakeJournal all;
    std::vector<size_t> sent;
    whole(executed(), all, sent);
    FakeJournal journal;
    Process next(journal, 2000);
    wire::Bytes bytes = all.files.at("abc");
    bytes.resize(all.ends[1]);
    journal.files["abc"] = bytes;
    next.api.restore("abc", bytes, 0);
    next.api.on_tick(kHttpResumeUs);
    CHECK(next.all<wire::Cancel>().size() == 1);
    CHECK(next.api.running() == 0);
    CHECK(journal.files.empty());
    CHECK(next.api.next_timer() == kNever);
}
