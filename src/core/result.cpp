#include "chatloop/core/result.hpp"

namespace chatloop {

std::string_view error_name(ErrorCode code) {
    switch (code) {
        case ErrorCode::kInvalidRequest: return "invalid_request";
        case ErrorCode::kPromptTooLong: return "prompt_too_long";
        case ErrorCode::kNotUtf8: return "not_utf8";
        case ErrorCode::kUnknownModel: return "unknown_model";
        case ErrorCode::kDuplicateId: return "duplicate_id";
        case ErrorCode::kQueueFull: return "queue_full";
        case ErrorCode::kQueueTimeout: return "queue_timeout";
        case ErrorCode::kDeadlineExceeded: return "deadline_exceeded";
        case ErrorCode::kNoRoute: return "no_route";
        case ErrorCode::kWorkerLost: return "worker_lost";
        case ErrorCode::kPoison: return "poison";
        case ErrorCode::kNonFinite: return "non_finite";
        case ErrorCode::kDraining: return "draining";
        case ErrorCode::kClientLost: return "client_lost";
        case ErrorCode::kFingerprint: return "fingerprint_mismatch";
        case ErrorCode::kMalformed: return "malformed";
        case ErrorCode::kBadFile: return "bad_file";
        case ErrorCode::kUnsupported: return "unsupported";
        case ErrorCode::kPortInUse: return "port_in_use";
        case ErrorCode::kInternal: return "internal";
    }
    return "internal";
}

bool error_retryable(ErrorCode code) {
    switch (code) {
        case ErrorCode::kQueueFull:
        case ErrorCode::kQueueTimeout:
        case ErrorCode::kNoRoute:
        case ErrorCode::kClientLost:
        case ErrorCode::kWorkerLost:
        case ErrorCode::kDraining: return true;
        default: return false;
    }
}

}  // namespace chatloop
