// Errors of the library. Every message says what was expected, what came, and what to do.
#pragma once

#include <stdexcept>
#include <string>

namespace cln {

/// What went wrong; the same kinds as the Python runtime's exception classes.
enum class ErrorCode {
  invalid_input = 1,       ///< an argument has the wrong shape or value
  file_not_found = 2,      ///< there is no such file, or it cannot be read
  file_format = 3,         ///< a file is missing something, truncated, or of another format
  mismatch = 4,            ///< two parts that do not belong together, such as an engine and a face model
  engine_unavailable = 5,  ///< a library or a device that an engine needs is not there
};

/// The one exception that the library throws on purpose (besides std::bad_alloc).
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace cln
