#include <cstddef>
#include <cstdint>

#include "cln/error.hpp"
#include "cln/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    // The first byte chooses between the two places that a manifest is read from.
    if (size > 0 && data[0] == 'O') {
      cln::parse_onnx_manifest(data + 1, size - 1, "input");
    } else {
      cln::parse_manifest(data, size, "input");
    }
  } catch (const cln::Error&) {
    // Refused, as most inputs should be.
  }
  return 0;
}
