// Resumable streams across a restart of the router (docs/http.md): an answer is cut anywhere, its
// journal too, and another Api carries on.
#include <doctest/doctest.h>

#include <algorithm>

#include "chatloop/core/limits.hpp"
#include "journal_harness.hpp"

using namespace chatloop;
using namespace chatloop::http;

namespace {

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

// The stream of a process that is not disturbed, and its journal.
struct Whole {
    FakeJournal journal;
    std::vector<size_t> sent;  // so many events had come after each message
    std::string stream;
    std::vector<std::string> events;

    explicit Whole(const Answer& answer) {
        Process process(journal, 1000);
        process.ask("POST", answer.path, answer.body);
        const std::string id = process.all<wire::Submit>().at(0).request_id;
        for (const wire::RouterBody& message : answer.said) {
            process.api.on_router(with_id(message, id), 0);
            sent.push_back(events_of(process.body()).size());
        }
        stream = process.body();
        events = events_of(stream);
        REQUIRE(journal.ends.size() == answer.said.size());
    }
    // The file after so many messages.
    wire::Bytes file(size_t messages) const {
        wire::Bytes bytes = journal.files.at("abc");
        bytes.resize(journal.ends.at(messages - 1));
        return bytes;
    }
};

constexpr char kAddress[] = "/v1/streams/abc";

}  // namespace

TEST_CASE("a router killed behind any message: the next one gives the same stream from any event") {
    for (const Answer& answer : kAnswers) {
        const Whole whole(answer);
        const auto& events = whole.events;
        for (size_t heard = 0; heard < answer.said.size(); ++heard) {
            for (size_t seen = 0; seen <= whole.sent[heard]; ++seen) {
                for (const bool is_late : {false, true}) {
                    FakeJournal journal;
                    const wire::Bytes bytes = journal.files["abc"] = whole.file(heard + 1);
                    Process next(journal, 2000);
                    CHECK(next.restore(bytes) == bytes.size());
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
                    CHECK(joined(events, 0, seen) + next.body() == whole.stream);
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
        const Whole whole(answer);
        const auto& [all, sent, stream, events] = whole;
        const wire::Bytes& file = all.files.at("abc");
        for (size_t cut = 0; cut <= file.size(); ++cut) {
            FakeJournal journal;
            Process next(journal, 2000);
            const wire::Bytes bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(cut));
            journal.files["abc"] = bytes;
            const size_t used = next.restore(bytes);
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
            if (const int status = next.ask("GET", kAddress, "", last); status != 200) {
                CHECK(status == 503);  // it comes to that again
                CHECK(next.body().find("restarting") != std::string::npos);
                take_up(next, answer, resumes[0]);
                REQUIRE(next.ask("GET", kAddress, "", last) == 200);
            } else {
                take_up(next, answer, resumes[0]);
            }
            CHECK(joined(events, 0, seen) + next.body() == stream);
            // And once more: what was said twice is in the journal twice.
            Process third(journal, 3000);
            const wire::Bytes again = journal.files.at("abc");
            CHECK(third.restore(again) == again.size());
            CHECK(third.all<wire::Resume>().empty());
            CHECK(third.ask("GET", kAddress, "") == 200);
            CHECK(third.body() == stream);
        }
    }
}

TEST_CASE("a damaged byte costs what is behind it, never more") {
    const Whole whole(two_choices());
    const wire::Bytes& file = whole.journal.files.at("abc");
    for (size_t at = 0; at < file.size(); ++at) {
        wire::Bytes damaged = file;
        damaged[at] ^= 0x10;
        FakeJournal journal;
        Process next(journal, 2000);
        const size_t used = next.restore(damaged);
        size_t before = 0;
        for (const size_t end : whole.journal.ends)
            if (end <= at) before = end;
        CHECK(used == before);
    }
}

TEST_CASE("the router hears what was asked, with all tokens that are known") {
    const Answer answer = with_logprobs();
    const Whole whole(answer);
    FakeJournal journal;
    for (size_t heard = 0; heard < answer.said.size() - 1; ++heard) {
        Process next(journal, 2000);
        next.restore(whole.file(heard + 1));
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
    CHECK(next.restore(bytes) == bytes.size());
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
    CHECK(next.restore(journal.files.at("abc")) > 0);
    CHECK(next.all<wire::Resume>().at(0).progress.choices.at(0).size() == 1);
}

TEST_CASE("a restored stream that the router has no place for asks again") {
    const Answer answer = executed();
    const Whole whole(answer);
    FakeJournal journal;
    Process next(journal, 2000);
    journal.files["abc"] = whole.file(2);
    next.restore(whole.file(2));
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
    CHECK(next.body() == whole.stream);
    // Accepted once, it fails as others do.
    CHECK(next.api.running() == 0);
}

TEST_CASE("nobody takes up a restored stream: it is cancelled and forgotten") {
    const Whole whole(executed());
    FakeJournal journal;
    Process next(journal, 2000);
    journal.files["abc"] = whole.file(2);
    next.restore(whole.file(2));
    next.api.on_tick(kHttpResumeUs);
    CHECK(next.all<wire::Cancel>().size() == 1);
    CHECK(next.api.running() == 0);
    CHECK(journal.files.empty());
    CHECK(next.api.next_timer() == kNever);
}
