#include <cstddef>
#include <cstdint>
#include <vector>

#include "cln/error.hpp"
#include "cln/face_model.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto model = cln::FaceModel::parse(data, size, "input");
    std::vector<float> params(model.num_params(), 0.5F), points(model.vertex_count() * 3);
    model.vertices(params.data(), 1, points.data());
    points.resize(cln::landmark_count * 3);
    model.landmarks(params.data(), 1, points.data());
  } catch (const cln::Error&) {
    // Refused, as most inputs should be.
  }
  return 0;
}
