#include "cln/mesh_file.hpp"

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

#include "text.hpp"

namespace cln {

void write_obj(const std::filesystem::path& path, const std::vector<float>& vertices, const FaceModel& model) {
  if (vertices.size() != model.vertex_count() * 3) {
    detail::fail(ErrorCode::invalid_input, "mesh: expected " + std::to_string(model.vertex_count()) +
                                               " vertices, got " + std::to_string(vertices.size()) + " numbers");
  }
  std::string text;
  char line[160];
  const auto add = [&text, &line](int length) { text.append(line, static_cast<std::size_t>(length)); };
  for (std::size_t i = 0; i < vertices.size(); i += 3) {
    const double x = vertices[i], y = vertices[i + 1], z = vertices[i + 2];
    add(std::snprintf(line, sizeof line, "v %.4f %.4f %.4f\n", x, -y, z));
  }
  for (std::size_t i = 0; i < model.uv().size(); i += 2) {
    const double u = model.uv()[i], v = model.uv()[i + 1];
    add(std::snprintf(line, sizeof line, "vt %.6f %.6f\n", u, v));
  }
  for (std::size_t i = 0; i < model.triangles().size(); i += 3) {
    const auto* t = model.triangles().data() + i;
    const int a = t[0] + 1, b = t[1] + 1, c = t[2] + 1;
    add(std::snprintf(line, sizeof line, "f %d/%d %d/%d %d/%d\n", a, a, b, b, c, c));
  }
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.flush()) {
    detail::fail(ErrorCode::file_not_found, path.string() + ": expected a file that can be written; check the folder");
  }
}

}  // namespace cln
