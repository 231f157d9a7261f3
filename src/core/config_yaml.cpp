// A configuration file as the table of keys knows it. yaml-cpp is included here only, and so are
// its exceptions caught.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>

#include "chatloop/core/config.hpp"
#include "chatloop/core/limits.hpp"
#include "chatloop/core/printable.hpp"

namespace chatloop {

namespace {

// Keys of other systems and of before: what to write instead.
struct Moved {
    const char* path;
    const char* hint;
};
constexpr Moved kMoved[] = {
    {"grpc", "ChatLoop has no gRPC; sockets are configured under bus, e.g. bus.listen"},
    {"worker.batching", "batching is the router's: put it into router.yaml as batching"},
    {"coordinator", "the coordinator is the router: see configs/router.yaml"},
};

const char* role_file(uint8_t roles) {
    if ((roles & kRouterRole) != 0) return "a router's";
    return (roles & kStageRole) != 0 ? "a stage's" : "a sampler's";
}

// Levenshtein (1966): edits that turn `a` into `b`.
size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 0; i < a.size(); ++i) {
        size_t diagonal = std::exchange(row[0], i + 1);
        for (size_t j = 0; j < b.size(); ++j) {
            const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
        }
    }
    return row[b.size()];
}

std::string_view last_part(std::string_view path) { return path.substr(path.rfind('.') + 1); }

// The known key that `path` most likely means; null when none is near. A key in the wrong section
// is nearer than one with a slip.
const Setting* nearest(std::string_view path, RoleBit role) {
    const Setting* best = nullptr;
    size_t best_distance = 2 + last_part(path).size() / 4;
    for (const Setting& setting : all_settings()) {
        if ((setting.roles & role) == 0) continue;
        const size_t whole = edit_distance(path, setting.path);
        const size_t last = edit_distance(last_part(path), last_part(setting.path));
        const size_t distance = std::min(whole, last);
        if (distance >= best_distance) continue;
        best = &setting;
        best_distance = distance;
    }
    return best;
}

// YAML::LoadAll loops for ever on some broken texts (0.7), so documents are counted apart, and
// never beyond the second.
class NoEvents final : public YAML::EventHandler {
    void OnDocumentStart(const YAML::Mark&) override {}
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
};

bool is_one_document(const std::string& text) {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    NoEvents events;
    return !parser.HandleNextDocument(events) || !parser.HandleNextDocument(events);
}

std::string with_line(std::string source, const YAML::Mark& mark) {
    if (!mark.is_null()) source.append(":").append(std::to_string(mark.line + 1));
    return source;
}

class Reader {
public:
    Reader(const std::string& source, RoleBit role) : source_(source), role_(role) {}

    Status read(const YAML::Node& root) {
        if (root.IsNull()) return Ok{};
        if (!root.IsMap()) return error(root, "", "is no mapping of keys to values");
        return read_section(root, "");
    }
    std::vector<RawSetting> take() { return std::move(settings_); }

private:
    std::string at(const YAML::Node& node) const {
        return with_line(source_, node.Mark());
    }
    Error error(const YAML::Node& node, const std::string& path, const std::string& what) const {
        const std::string subject = path.empty() ? "the document" : path;
        return {ErrorCode::kBadFile, at(node) + ": " + subject + " " + what};
    }

    Status read_section(const YAML::Node& section, const std::string& prefix) {
        std::set<std::string> seen;
        for (const auto& entry : section) {
            if (!entry.first.IsScalar())
                return error(entry.first, prefix, "has a key that is no word");
            const std::string key = printable(entry.first.Scalar());
            const std::string path = prefix.empty() ? key : prefix + "." + key;
            if (!seen.insert(key).second) return error(entry.first, path, "is given twice");
            if (const Status status = read_key(entry.first, entry.second, path); !status)
                return status;
        }
        return Ok{};
    }

    Status read_key(const YAML::Node& key, const YAML::Node& value, const std::string& path) {
        for (const Moved& moved : kMoved) {
            if (path != moved.path) continue;
            return error(key, path, std::string("is not known: ") + moved.hint);
        }
        const Setting* found = nullptr;
        bool section = false;
        for (const Setting& setting : all_settings()) {
            const std::string_view known = setting.path;
            if (known == path && (found == nullptr || (setting.roles & role_) != 0))
                found = &setting;
            section = section || known.starts_with(path + ".");
        }
        if (section) {
            if (value.IsNull()) return Ok{};
            if (!value.IsMap()) return error(value, path, "is a section: it holds keys");
            return read_section(value, path);
        }
        if (found == nullptr) return unknown(key, path);
        if ((found->roles & role_) == 0)
            return error(key, path, std::string("belongs in ") + role_file(found->roles) + " file");
        return read_value(key, value, *found);
    }

    Error unknown(const YAML::Node& key, const std::string& path) const {
        const Setting* near = nearest(path, role_);
        const std::string hint = near == nullptr ? "see docs/configuration.md"
                                                 : std::string("did you mean ") + near->path + "?";
        return error(key, path, "is not known: " + hint);
    }

    Status read_value(const YAML::Node& key, const YAML::Node& value, const Setting& setting) {
        RawSetting raw{&setting, {}, at(key)};
        if (value.IsNull()) return error(key, setting.path, "has no value");
        if (value.IsSequence() && setting.kind == SettingKind::kTexts) {
            for (const YAML::Node& element : value) {
                if (!element.IsScalar())
                    return error(element, setting.path, "has an element that is no word");
                raw.texts.push_back(element.Scalar());
                if (raw.texts.size() > kRoutersMax)
                    return error(key, setting.path, "has too many elements");
            }
            if (raw.texts.empty()) return error(key, setting.path, "has no elements");
        } else if (value.IsScalar()) {
            raw.texts.push_back(value.Scalar());
        } else {
            return error(key, setting.path, "takes one value");
        }
        settings_.push_back(std::move(raw));
        return Ok{};
    }

    std::string source_;
    RoleBit role_;
    std::vector<RawSetting> settings_;
};

}  // namespace

Result<std::vector<RawSetting>> parse_config(std::string_view yaml, const std::string& source,
                                             RoleBit role) {
    if (yaml.size() > kConfigBytesMax)
        return Error{ErrorCode::kBadFile, source + ": larger than any configuration file"};
    try {
        const std::string text(yaml);
        if (!is_one_document(text))
            return Error{ErrorCode::kBadFile, source + ": holds more than one YAML document"};
        Reader reader(source, role);
        if (const Status status = reader.read(YAML::Load(text)); !status) return status.error();
        return reader.take();
    } catch (const YAML::Exception& error) {
        return Error{ErrorCode::kBadFile,
                     with_line(source, error.mark) + ": not YAML: " + printable(error.msg)};
    }
}

Result<std::vector<RawSetting>> read_config(const std::string& path, RoleBit role) {
    std::ifstream file(path, std::ios::binary);
    std::string text(kConfigBytesMax + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (!file.is_open() || file.bad())
        return Error{ErrorCode::kBadFile, path + ": cannot be read: is there such a file?"};
    text.resize(static_cast<size_t>(file.gcount()));
    return parse_config(text, path, role);
}

}  // namespace chatloop
