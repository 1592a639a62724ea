// Small helpers for messages and files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <vector>

#include "cln/error.hpp"

namespace cln::detail {

[[noreturn]] inline void fail(ErrorCode code, const std::string& message) { throw Error(code, message); }

/// The bytes of a file. Throws Error(file_not_found).
inline std::vector<std::uint8_t> read_file(const std::filesystem::path& path) {
  std::error_code error;
  std::ifstream file;
  if (std::filesystem::is_regular_file(path, error)) {  // opening a folder "succeeds" on Linux
    file.open(path, std::ios::binary | std::ios::ate);
  }
  if (!file.is_open()) {
    fail(ErrorCode::file_not_found, path.string() + ": expected a file that can be read, found none; check the path");
  }
  const std::streamoff size = file.tellg();
  std::vector<std::uint8_t> data(static_cast<std::size_t>(size));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(size));
  if (!file) {
    fail(ErrorCode::file_not_found, path.string() + ": reading stopped before its end; check the disk");
  }
  return data;
}

}  // namespace cln::detail
