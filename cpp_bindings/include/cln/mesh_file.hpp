// Wavefront OBJ. Vertices come in image pixels with y down; the file has the y-up frame that mesh viewers expect:
// (x, -y, z). So a face stands upright, looks along +z, and keeps its counter-clockwise outward winding.
#pragma once

#include <filesystem>
#include <vector>

#include "cln/face_model.hpp"

namespace cln {

/// Writes `vertices` (N, 3) with the model's triangles and texture coordinates.
/// Throws Error(invalid_input): not the model's N; Error(file_not_found): the file cannot be written.
void write_obj(const std::filesystem::path& path, const std::vector<float>& vertices, const FaceModel& model);

}  // namespace cln
