// The safetensors container: 8 bytes header length (little-endian), JSON {name: {"dtype", "shape", "data_offsets"},
// "__metadata__": {text: text}}, then raw little-endian tensors. The same rules as runtime/safetensors.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace cln::detail {

/// A tensor inside the file's bytes, not necessarily aligned.
struct TensorView {
  std::string dtype;  // "U8", "I32", "I64", "F16", "F32", "F64"
  std::vector<std::size_t> shape;
  const std::uint8_t* data = nullptr;
  std::size_t count = 0;  // numbers
};

struct Safetensors {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

/// Views into `data`, every one inside its bounds. Throws Error(file_format).
Safetensors parse_safetensors(const std::uint8_t* data, std::size_t size, const std::string& name);

}  // namespace cln::detail
