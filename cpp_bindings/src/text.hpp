// Small helpers for messages and files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <random>
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

/// Writes a file beside its place and renames it into it, or straight into what is no plain file (a pipe, a device).
/// Throws Error(file_not_found); the old file then stays, and no partial one is left.
inline void write_file(const std::filesystem::path& path, const std::string& data) {
  namespace fs = std::filesystem;
  std::error_code error;
  const bool special = fs::exists(path, error) && !fs::is_regular_file(path, error);
  const fs::path target = !special && fs::is_symlink(path, error) ? fs::weakly_canonical(path, error) : path;
  const fs::path place = special ? path : target.parent_path() / (".cln-" + std::to_string(std::random_device{}()));
  std::ofstream file(place, std::ios::binary | (special ? std::ios::app : std::ios::trunc));
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
  file.close();
  if (file && !special) {
    fs::rename(place, target, error);
  }
  if (!file || error) {
    if (!special) {
      std::error_code ignored;
      fs::remove(place, ignored);
    }
    fail(ErrorCode::file_not_found, path.string() + ": expected a file that can be written; check its folder and disk");
  }
}

}  // namespace cln::detail
