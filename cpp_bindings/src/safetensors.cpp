#include "safetensors.hpp"

#include <optional>
#include <utility>

#include "json.hpp"
#include "text.hpp"

namespace cln::detail {
namespace {

constexpr std::uint64_t max_header = 1u << 20;

std::size_t item_size(const std::string& dtype) {
  static constexpr std::pair<const char*, std::size_t> sizes[] = {{"U8", 1},  {"I32", 4}, {"I64", 8},
                                                                  {"F16", 2}, {"F32", 4}, {"F64", 8}};
  for (const auto& [name, size] : sizes) {
    if (dtype == name) {
      return size;
    }
  }
  return 0;
}

/// An array of sizes, or nothing.
std::optional<std::vector<std::size_t>> sizes(const Json* value) {
  const auto* items = value != nullptr ? value->as<JsonArray>() : nullptr;
  if (items == nullptr) {
    return std::nullopt;
  }
  std::vector<std::size_t> result;
  for (const Json& item : *items) {
    const auto* number = item.as<JsonNumber>();
    if (number == nullptr || !number->is_integer || number->value < 0) {
      return std::nullopt;
    }
    result.push_back(static_cast<std::size_t>(number->value));
  }
  return result;
}

TensorView tensor(const Json& entry, const std::uint8_t* body, std::size_t body_size, const std::string& where) {
  const Json* dtype = entry.find("dtype");
  const auto* type = dtype != nullptr ? dtype->as<std::string>() : nullptr;
  const auto shape = sizes(entry.find("shape"));
  const auto span = sizes(entry.find("data_offsets"));
  if (type == nullptr || item_size(*type) == 0 || !shape || !span || span->size() != 2) {
    fail(ErrorCode::file_format, where + " has an unreadable header entry; make the file again");
  }
  const std::size_t start = (*span)[0], stop = (*span)[1];
  if (stop > body_size) {
    fail(ErrorCode::file_format, where + ": expected at least " + std::to_string(stop) + " bytes of data, got " +
                                     std::to_string(body_size) + ": the file is truncated");
  }
  std::size_t count = 1;
  bool fits = start <= stop;
  for (const std::size_t n : *shape) {
    fits = fits && (n == 0 || count <= body_size / n);  // no product above the body's size, so none overflows
    count = fits ? count * n : 0;
  }
  if (!fits || (stop - start) / item_size(*type) != count || (stop - start) % item_size(*type) != 0) {
    fail(ErrorCode::file_format, where + ": its shape does not fit its bytes; make the file again");
  }
  return {*type, *shape, body + start, count};
}

}  // namespace

Safetensors parse_safetensors(const std::uint8_t* data, std::size_t size, const std::string& name) {
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < 8 && size >= 8; ++i) {
    length |= std::uint64_t{data[i]} << (8 * i);
  }
  if (size < 8 || length > max_header || length > size - 8) {
    fail(ErrorCode::file_format, name + ": expected a safetensors file, got " + std::to_string(size) +
                                     " bytes whose header does not fit; the file is truncated or of another format");
  }
  const Json header = parse_json(data + 8, static_cast<std::size_t>(length), name);
  const auto* entries = header.as<JsonObject>();
  if (entries == nullptr) {
    fail(ErrorCode::file_format, name + ": expected a JSON object as header; fetch or make the file again");
  }
  const std::uint8_t* body = data + 8 + length;
  const std::size_t body_size = size - 8 - static_cast<std::size_t>(length);
  Safetensors result;
  for (const auto& [key, entry] : *entries) {
    if (key != "__metadata__") {
      result.tensors.emplace(key, tensor(entry, body, body_size, name + ": tensor '" + key + "'"));
      continue;
    }
    const auto* pairs = entry.as<JsonObject>();
    for (std::size_t i = 0; pairs != nullptr && i < pairs->size(); ++i) {
      if (const auto* text = (*pairs)[i].second.as<std::string>()) {
        result.metadata.emplace((*pairs)[i].first, *text);
      }
    }
    if (pairs == nullptr || result.metadata.size() != pairs->size()) {
      fail(ErrorCode::file_format, name + ": expected metadata of strings; make the file again");
    }
  }
  return result;
}

}  // namespace cln::detail
