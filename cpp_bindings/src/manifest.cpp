#include "cln/manifest.hpp"

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "json.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace cln {
namespace {

using detail::fail;
using detail::Json;
using detail::JsonArray;
using detail::JsonNumber;
using detail::JsonObject;

constexpr const char* onnx_key = "cln.manifest";
constexpr const char* remedy = "; build the engine again";

std::string describe(const Json& value) {
  if (const auto* text = value.as<std::string>()) {
    return "'" + text->substr(0, 40) + "'";
  }
  if (const auto* number = value.as<JsonNumber>()) {
    return std::to_string(number->value);
  }
  static constexpr const char* kinds[] = {"null", "true or false", "a number", "text", "a list", "an object"};
  return kinds[value.value.index()];
}

/// Typed access to one JSON object; every complaint names the field.
class Fields {
 public:
  /// Without `known`, any further fields are passed over.
  Fields(const Json& json, std::string where, std::initializer_list<std::string_view> known = {})
      : json_(json), where_(std::move(where)) {
    const auto* object = json.as<JsonObject>();
    if (object == nullptr) {
      fail(ErrorCode::file_format, where_ + ": expected a JSON object" + remedy);
    }
    for (const auto& [key, value] : *object) {
      if (known.size() > 0 && std::find(known.begin(), known.end(), key) == known.end()) {
        fail(ErrorCode::file_format, where_ + ": manifest has the unknown field '" + key + "'" + remedy);
      }
    }
  }

  /// The value of a field, or nullptr where it is missing and need not be there.
  const Json* get(const char* key, bool required) const {
    const Json* value = json_.find(key);
    if (value == nullptr && required) {
      fail(ErrorCode::file_format, where_ + ": manifest lacks the field '" + key + "'" + remedy);
    }
    return value;
  }

  std::string text(const char* key) const { return text_of(*get(key, true), key); }

  std::optional<std::string> optional_text(const char* key) const {
    const Json* value = get(key, false);
    return is_null(value) ? std::nullopt : std::optional(text_of(*value, key));
  }

  double number(const char* key) const { return number_of(*get(key, true), key).value; }

  std::optional<double> optional_number(const char* key) const {
    const Json* value = get(key, false);
    return is_null(value) ? std::nullopt : std::optional(number_of(*value, key).value);
  }

  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    return integer_of(*get(key, true), key, low, high);
  }

  std::int64_t integer_of(const Json& value, const char* key, std::int64_t low, std::int64_t high) const {
    const JsonNumber number = number_of(value, key);
    if (!number.is_integer || number.value < static_cast<double>(low) || number.value > static_cast<double>(high)) {
      refuse(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high), value);
    }
    return static_cast<std::int64_t>(number.value);
  }

  const JsonArray& array(const char* key, bool required) const {
    static const JsonArray none;
    const Json* value = get(key, required);
    const auto* items = value != nullptr ? value->as<JsonArray>() : &none;
    if (items == nullptr) {
      refuse(key, "a list", *value);
    }
    return *items;
  }

  std::string text_of(const Json& value, const char* key) const {
    const auto* text = value.as<std::string>();
    if (text == nullptr) {
      refuse(key, "text", value);
    }
    return *text;
  }

  JsonNumber number_of(const Json& value, const char* key) const {
    const auto* number = value.as<JsonNumber>();
    if (number == nullptr) {
      refuse(key, "a number", value);
    }
    return *number;
  }

  [[noreturn]] void refuse(const char* key, const std::string& expected, const Json& value) const {
    fail(ErrorCode::file_format,
         where_ + ": field '" + key + "': expected " + expected + ", got " + describe(value) + remedy);
  }

 private:
  static bool is_null(const Json* value) { return value == nullptr || value->as<std::monostate>() != nullptr; }

  const Json& json_;
  std::string where_;
};

constexpr std::int64_t any = std::int64_t{1} << 53;

Parity read_parity(const Json& json, const std::string& name) {
  const Fields fields(json, name + ": field 'parity'");
  return {fields.text("step"), fields.number("max_params"), fields.number("max_landmark_px"),
          fields.integer("crops", -any, any), fields.optional_number("p99_landmark_px")};
}

void check_format(const Json& json, const std::string& name) {
  const Json* format = json.find("format");
  const auto* text = format != nullptr ? format->as<std::string>() : nullptr;
  if (text == nullptr || *text != "cln.engine") {
    fail(ErrorCode::file_format, name + ": expected a manifest with \"format\": \"cln.engine\"" + remedy);
  }
  const Json* version = json.find("version");
  const auto* number = version != nullptr ? version->as<JsonNumber>() : nullptr;
  if (number == nullptr || !number->is_integer || number->value != 1) {
    fail(ErrorCode::file_format, name + ": expected manifest version 1" + remedy + " with this version of the package");
  }
}

/// Walks the fields of a protobuf message: varints, 32- and 64-bit numbers, and bytes; groups are not used by ONNX.
class ProtoReader {
 public:
  ProtoReader(const std::uint8_t* data, std::size_t count, const std::string& name)
      : data_(data), end_(data + count), name_(name) {}

  std::uint64_t field = 0;
  const std::uint8_t* bytes = nullptr;  // of the current field, where it is of bytes; else nullptr
  std::size_t size = 0;

  bool next() {
    if (data_ == end_) {
      return false;
    }
    const std::uint64_t tag = varint();
    field = tag >> 3;
    bytes = nullptr;
    switch (tag & 7) {
      case 0:
        varint();
        return true;
      case 1:
        skip(8);
        return true;
      case 2:
        size = checked(varint());
        bytes = data_;
        data_ += size;
        return true;
      case 5:
        skip(4);
        return true;
      default:
        refuse();
    }
  }

  [[nodiscard]] std::string text() const { return {reinterpret_cast<const char*>(bytes), size}; }

 private:
  [[noreturn]] void refuse() const {
    fail(ErrorCode::file_format, name_ +
                                     ": expected an ONNX model, got bytes that are none; the file may be truncated: "
                                     "build or fetch it again");
  }

  std::size_t checked(std::uint64_t count) const {
    if (count > static_cast<std::uint64_t>(end_ - data_)) {
      refuse();
    }
    return static_cast<std::size_t>(count);
  }

  void skip(std::uint64_t count) { data_ += checked(count); }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && data_ != end_; shift += 7) {
      const std::uint8_t byte = *data_++;
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if ((byte & 0x80) == 0) {
        return value;
      }
    }
    refuse();
  }

  const std::uint8_t* data_;
  const std::uint8_t* end_;
  const std::string& name_;
};

}  // namespace

Manifest parse_manifest(const std::uint8_t* data, std::size_t size, const std::string& name) {
  const Json json = detail::parse_json(data, size, name);
  check_format(json, name);
  const Fields fields(json, name,
                      {"format", "version", "input_size", "shape_count", "expression_count", "face_model",
                       "face_model_sha256", "precision", "builder", "builder_version", "compute_capabilities",
                       "batch_range", "checkpoint_sha256", "onnx_sha256", "plan_sha256", "parity", "figures",
                       "sha256"});
  Manifest manifest;
  manifest.input_size = static_cast<int>(fields.integer("input_size", 1, 16384));
  manifest.shape_count = static_cast<int>(fields.integer("shape_count", 0, 100000));
  manifest.expression_count = static_cast<int>(fields.integer("expression_count", 0, 100000));
  manifest.face_model = fields.text("face_model");
  manifest.face_model_sha256 = fields.text("face_model_sha256");
  manifest.precision = fields.text("precision");
  manifest.builder = fields.text("builder");
  manifest.builder_version = fields.text("builder_version");
  for (const Json& item : fields.array("compute_capabilities", false)) {
    manifest.compute_capabilities.push_back(fields.text_of(item, "compute_capabilities"));
  }
  const JsonArray& range = fields.array("batch_range", true);
  if (range.size() != 2) {
    fields.refuse("batch_range", "two integers", *fields.get("batch_range", true));
  }
  manifest.batch_range = {fields.integer_of(range[0], "batch_range", -any, any),
                          fields.integer_of(range[1], "batch_range", -any, any)};
  manifest.checkpoint_sha256 = fields.text("checkpoint_sha256");
  manifest.onnx_sha256 = fields.optional_text("onnx_sha256");
  manifest.plan_sha256 = fields.optional_text("plan_sha256");
  for (const Json& item : fields.array("parity", false)) {
    manifest.parity.push_back(read_parity(item, name));
  }
  if (const Json* figures = fields.get("figures", false)) {
    const auto* object = figures->as<JsonObject>();
    if (object == nullptr) {
      fields.refuse("figures", "a JSON object", *figures);
    }
    for (const auto& [key, value] : *object) {
      manifest.figures.emplace(key, fields.number_of(value, "figures").value);
    }
  }
  return manifest;
}

Manifest parse_onnx_manifest(const std::uint8_t* data, std::size_t size, const std::string& name) {
  // ModelProto.metadata_props = 14: StringStringEntryProto {key = 1, value = 2}.
  ProtoReader model(data, size, name);
  while (model.next()) {
    if (model.field != 14 || model.bytes == nullptr) {
      continue;
    }
    std::string key;
    const std::uint8_t* value = nullptr;
    std::size_t value_size = 0;
    ProtoReader entry(model.bytes, model.size, name);
    while (entry.next()) {
      if (entry.field == 1 && entry.bytes != nullptr) {
        key = entry.text();
      } else if (entry.field == 2 && entry.bytes != nullptr) {
        value = entry.bytes, value_size = entry.size;
      }
    }
    if (key == onnx_key && value != nullptr) {
      return parse_manifest(value, value_size, name);
    }
  }
  fail(ErrorCode::file_format, name + ": expected an ONNX file with a manifest in its metadata ('" + onnx_key +
                                   "'), found none; export it with python -m export.build_engine");
}

Manifest read_manifest(const std::filesystem::path& engine) {
  const std::string name = engine.string();
  if (engine.extension() == ".onnx") {
    const auto data = detail::read_file(engine);
    return parse_onnx_manifest(data.data(), data.size(), name);
  }
  if (engine.extension() != ".engine") {
    fail(ErrorCode::invalid_input, name + ": expected an engine file ending in .onnx or .engine");
  }
  const auto plan = detail::read_file(engine);
  const auto text = detail::read_file(name + ".json");
  Manifest manifest = parse_manifest(text.data(), text.size(), name + ".json");
  const std::string found = detail::sha256(plan.data(), plan.size());
  if (manifest.plan_sha256 != found) {
    fail(ErrorCode::file_format, name + ": expected the plan of " + name + ".json (sha256 " +
                                     manifest.plan_sha256.value_or("none").substr(0, 12) + "), got one of sha256 " +
                                     found.substr(0, 12) + "; fetch or build both again");
  }
  const auto [low, high] = manifest.batch_range;
  if (low < 1 || high < low || high > 65536) {
    fail(ErrorCode::file_format, name + ".json: expected a batch range from 1 to at most 65536" + remedy);
  }
  return manifest;
}

}  // namespace cln
