// Files made in memory, and checks on refusals.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cln/error.hpp"

using Bytes = std::vector<std::uint8_t>;

inline Bytes bytes(const std::string& text) { return Bytes(text.begin(), text.end()); }

/// Whether `call` throws an Error of `code` whose message holds `word`.
inline bool refuses(const std::function<void()>& call, cln::ErrorCode code, const std::string& word) {
  try {
    call();
  } catch (const cln::Error& error) {
    const bool fits = error.code() == code && std::string(error.what()).find(word) != std::string::npos;
    if (!fits) {
      MESSAGE("got: " << error.what());
    }
    return fits;
  }
  MESSAGE("nothing was thrown");
  return false;
}

/// A small face model: `points` vertices, 5 shape and 2 expression modes, of smooth numbers.
class ModelFile {
 public:
  static constexpr std::size_t shapes = 5, expressions = 2;

  explicit ModelFile(std::size_t points = 130) {
    const std::string n = std::to_string(points);
    add("mean", "F32", "[" + n + ",3]", wave(points * 3, 50, 0));
    add("shape_basis", "F32", "[5," + n + ",3]", wave(shapes * points * 3, 2, 1));
    add("expression_basis", "F16", "[2," + n + ",3]", Bytes(expressions * points * 6, 0x3C));  // 0x3C3C = 1.0586
    for (const char* key : {"shape_sigma", "shape_mirror"}) {
      add(key, "F32", "[5]", wave(shapes, 1, 2));
    }
    for (const char* key : {"expression_sigma", "expression_mirror"}) {
      add(key, "F32", "[2]", wave(expressions, 1, 3));
    }
    add("triangles", "I32", "[2,3]", indices(6, points));
    add("landmark_triangles", "I32", "[68,3]", indices(3 * 68, points));
    const std::vector<float> thirds(3 * 68, 1.0F / 3.0F);
    add("landmark_weights", "F32", "[68,3]", raw(thirds.data(), thirds.size() * sizeof(float)));
    add("mirror", "I32", "[" + n + "]", indices(points, points));
    add("uv", "F32", "[" + n + ",2]", wave(points * 2, 1, 4));
    add("region", "U8", "[" + n + "]", Bytes(points, 0));
  }

  struct Tensor {
    std::string dtype, shape;
    Bytes data;
  };
  std::map<std::string, Tensor> tensors;
  std::string metadata = R"({"format":"cln.face_model","version":"2","name":"test","region_names":"skin,lips"})";

  /// The version before: each landmark is a vertex.
  void use_landmark_vertices() {
    const std::size_t points = tensors["mirror"].data.size() / sizeof(std::int32_t);
    tensors.erase("landmark_triangles");
    tensors.erase("landmark_weights");
    add("landmark_vertices", "I32", "[68]", indices(68, points));
    metadata = R"({"format":"cln.face_model","version":"1","name":"test","region_names":"skin,lips"})";
  }

  [[nodiscard]] Bytes write() const {
    std::string header = "{\"__metadata__\":" + metadata;
    Bytes body;
    for (const auto& [key, t] : tensors) {
      header += ",\"" + key + R"(":{"dtype":")" + t.dtype + R"(","shape":)" + t.shape + ",\"data_offsets\":[" +
                std::to_string(body.size()) + "," + std::to_string(body.size() + t.data.size()) + "]}";
      body.insert(body.end(), t.data.begin(), t.data.end());
    }
    return with_header(header + "}", body);
  }

  static Bytes with_header(const std::string& header, const Bytes& body) {
    std::string file;
    for (std::size_t i = 0; i < 8; ++i) {
      file.push_back(static_cast<char>(header.size() >> (8 * i) & 255));
    }
    file += header;
    file.append(body.begin(), body.end());
    return bytes(file);
  }

 private:
  void add(const std::string& key, const std::string& dtype, const std::string& shape, Bytes data) {
    tensors[key] = {dtype, shape, std::move(data)};
  }

  static Bytes wave(std::size_t count, float height, int seed) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) {
      values[i] = height * static_cast<float>((i * 37 + static_cast<std::size_t>(seed) * 11) % 101) / 101.0F;
    }
    return raw(values.data(), count * sizeof(float));
  }

  static Bytes indices(std::size_t count, std::size_t points) {
    std::vector<std::int32_t> values(count);
    for (std::size_t i = 0; i < count; ++i) {
      values[i] = static_cast<std::int32_t>((i * 7) % points);
    }
    return raw(values.data(), count * sizeof(std::int32_t));
  }

  static Bytes raw(const void* data, std::size_t size) {
    Bytes result(size);
    std::memcpy(result.data(), data, size);
    return result;
  }
};
