// A strict reader of JSON (RFC 8259), for the manifest and a face model's header. It refuses what those never have:
// duplicate keys, more than 32 levels, numbers that a double does not hold, text that is not UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace cln::detail {

class Json;
using JsonArray = std::vector<Json>;
using JsonObject = std::vector<std::pair<std::string, Json>>;  // in the file's order

struct JsonNumber {
  double value;
  bool is_integer;  // written without fraction and exponent, and exact in a double
};

/// A value; `std::monostate` is null.
class Json {
 public:
  std::variant<std::monostate, bool, JsonNumber, std::string, JsonArray, JsonObject> value;

  template <typename T>
  [[nodiscard]] const T* as() const noexcept {
    return std::get_if<T>(&value);
  }

  /// The value under `key`, or nullptr where there is none or this is no object.
  [[nodiscard]] const Json* find(const std::string& key) const noexcept;
};

/// Throws Error(file_format) naming `name` and the byte.
Json parse_json(const std::uint8_t* data, std::size_t size, const std::string& name);

}  // namespace cln::detail
