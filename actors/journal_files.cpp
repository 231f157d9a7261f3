#include "journal_files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "log.hpp"

namespace chatloop::actors {

namespace {

constexpr char kLockName[] = "lock";
constexpr size_t kNumberDigits = 12;
constexpr char kSuffix[] = ".stream";
constexpr mode_t kOwnerOnly = 0600;
constexpr mode_t kOwnerOnlyFolder = 0700;

Error folder_error(const std::string& folder, const std::string& what) {
    return {ErrorCode::kBadFile, "http.journal_dir " + folder + ": " + what};
}

// Nothing: no file of a journal.
std::optional<uint64_t> read_name(const std::string& name) {
    uint64_t number = 0;
    const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    const bool is_ours = error == std::errc() && stop - name.data() == kNumberDigits &&
                         name.substr(kNumberDigits) == kSuffix;
    return is_ours ? std::optional<uint64_t>(number) : std::nullopt;
}

std::string make_name(uint64_t number) {
    std::string digits = std::to_string(number);
    if (digits.size() < kNumberDigits) digits.insert(0, kNumberDigits - digits.size(), '0');
    return digits + kSuffix;
}

std::vector<std::string> names_in(int folder) {
    std::vector<std::string> names;
    const int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* const listing = copy < 0 ? nullptr : fdopendir(copy);
    if (listing == nullptr) return names;
    while (const dirent* entry = readdir(listing))
        if (read_name(entry->d_name)) names.push_back(entry->d_name);
    closedir(listing);
    std::sort(names.begin(), names.end());
    return names;
}

// All of the file, if it is a plain one of allowed size; errno says why not.
std::optional<wire::Bytes> read_all(int descriptor) {
    struct stat info {};
    if (fstat(descriptor, &info) != 0) return std::nullopt;
    const auto size = static_cast<uint64_t>(info.st_size);
    errno = S_ISREG(info.st_mode) ? EFBIG : EINVAL;
    if (!S_ISREG(info.st_mode) || size > kJournalStreamBytesMax) return std::nullopt;
    wire::Bytes bytes(size);
    size_t at = 0;
    while (at < bytes.size()) {
        const ssize_t got = ::read(descriptor, bytes.data() + at, bytes.size() - at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return std::nullopt;
        at += static_cast<size_t>(got);
    }
    return bytes;
}

}  // namespace

Result<std::unique_ptr<JournalFiles>> JournalFiles::open(const std::string& folder) {
    if (mkdir(folder.c_str(), kOwnerOnlyFolder) != 0 && errno != EEXIST)
        return folder_error(folder, std::string("cannot be made: ") + std::strerror(errno));
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return folder_error(folder, std::strerror(errno));
    const int lock = openat(descriptor, kLockName, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
                            kOwnerOnly);
    if (lock < 0) {
        const Error error = folder_error(folder, std::string("cannot be written: ") +
                                                     std::strerror(errno));
        ::close(descriptor);
        return error;
    }
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        ::close(lock);
        ::close(descriptor);
        return folder_error(folder, "another router uses it: each needs a folder of its own");
    }
    return std::unique_ptr<JournalFiles>(new JournalFiles(folder, descriptor, lock));
}

Status JournalFiles::check(const std::string& folder) {
    if (access(folder.c_str(), R_OK | W_OK | X_OK) == 0) return Ok{};
    if (errno == ENOENT) {
        const std::filesystem::path parent = std::filesystem::absolute(folder).parent_path();
        if (access(parent.c_str(), W_OK | X_OK) == 0) return Ok{};
    }
    return folder_error(folder, std::string("cannot be used: ") + std::strerror(errno));
}

JournalFiles::JournalFiles(std::string folder, int folder_descriptor, int lock)
    : folder_(std::move(folder)), folder_descriptor_(folder_descriptor), lock_(lock) {}

JournalFiles::~JournalFiles() {
    for (auto& [key, file] : files_) close(file);
    ::close(lock_);
    ::close(folder_descriptor_);
}

void JournalFiles::restore(const Take& take) {
    for (const std::string& name : names_in(folder_descriptor_)) {
        last_number_ = std::max(last_number_, *read_name(name));
        restore_one(name, take);
    }
}

void JournalFiles::lose(const std::string& name, const std::string& why) {
    ++lost_;
    log_line('w', "journal: " + folder_ + "/" + name + " " + why);
}

void JournalFiles::restore_one(const std::string& name, const Take& take) {
    const int descriptor =
        openat(folder_descriptor_, name.c_str(), O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
    const std::optional<wire::Bytes> bytes =
        descriptor < 0 ? std::nullopt : read_all(descriptor);
    File file{name, descriptor, 0};
    if (!bytes) {
        const std::string why = std::strerror(errno);
        close(file);
        return lose(name, "cannot be read and stays: " + why);
    }
    const std::optional<http::Api::Restored> taken = take(*bytes);
    if (!taken || taken->key.empty()) {
        close(file);
        if (taken) return lose(name, "stays: too many streams are there");
        unlinkat(folder_descriptor_, name.c_str(), 0);
        return lose(name, "holds no stream: it is deleted");
    }
    ++restored_;
    file.bytes = taken->bytes;
    bytes_ += file.bytes;
    if (taken->bytes < bytes->size()) {
        log_line('w', "journal: the last " + std::to_string(bytes->size() - taken->bytes) +
                          " bytes of " + folder_ + "/" + name +
                          " are damaged: what they said is computed again");
        if (ftruncate(descriptor, static_cast<off_t>(taken->bytes)) != 0) close(file);
    }
    if (taken->has_ended) close(file);
    files_[taken->key] = file;
}

Status JournalFiles::begin(const std::string& key, wire::ByteView records) {
    const std::string name = make_name(++last_number_);
    const int descriptor =
        openat(folder_descriptor_, name.c_str(),
               O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, kOwnerOnly);
    File file{name, descriptor, 0};
    if (descriptor < 0) ++write_errors_;
    if (descriptor >= 0 && write(file, records)) {
        files_[key] = file;
        return Ok{};
    }
    const std::string why = std::strerror(errno);
    close(file);
    remove(file);
    return Error{ErrorCode::kQueueFull, "the journal of resumable streams cannot be written: " +
                                            why};
}

bool JournalFiles::append(const std::string& key, wire::ByteView records) {
    const auto found = files_.find(key);
    if (found == files_.end() || found->second.descriptor < 0) return false;
    if (write(found->second, records)) return true;
    close(found->second);
    return false;
}

void JournalFiles::close(const std::string& key) {
    if (const auto found = files_.find(key); found != files_.end()) close(found->second);
}

void JournalFiles::drop(const std::string& key) {
    const auto found = files_.find(key);
    if (found == files_.end()) return;
    close(found->second);
    remove(found->second);
    files_.erase(found);
}

// All of it or, as far as that can be had, nothing; errno says why not.
bool JournalFiles::write(File& file, wire::ByteView records) {
    const bool fits = file.bytes + records.size() <= kJournalStreamBytesMax &&
                      bytes_ + records.size() <= kJournalBytesMax;
    ssize_t written = -1;
    errno = EFBIG;
    while (fits && (written = ::write(file.descriptor, records.data(), records.size())) < 0 &&
           errno == EINTR) {
    }
    if (written == static_cast<ssize_t>(records.size())) {
        file.bytes += records.size();
        bytes_ += records.size();
        is_failing_ = false;
        return true;
    }
    const int why = written >= 0 ? ENOSPC : errno;
    ++write_errors_;
    if (!std::exchange(is_failing_, true))
        log_line('w', "journal: " + file.name + " in " + folder_ + " cannot be written: " + std::strerror(why) +
                          ": what is missing is computed again after a restart");
    // A part of a record that cannot be taken back fails its CRC.
    if (written > 0) static_cast<void>(!ftruncate(file.descriptor, static_cast<off_t>(file.bytes)));
    errno = why;
    return false;
}

void JournalFiles::close(File& file) {
    if (file.descriptor >= 0) ::close(file.descriptor);
    file.descriptor = -1;
}

void JournalFiles::remove(const File& file) {
    unlinkat(folder_descriptor_, file.name.c_str(), 0);
    bytes_ -= file.bytes;
}

}  // namespace chatloop::actors
