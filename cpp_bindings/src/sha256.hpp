// SHA-256 (FIPS 180-4): a face model's identity, and a plan's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cln::detail {

/// Lower-case hex, 64 characters.
std::string sha256(const std::uint8_t* data, std::size_t size);

}  // namespace cln::detail
