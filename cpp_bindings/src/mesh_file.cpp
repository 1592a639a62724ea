#include "cln/mesh_file.hpp"

#include <cstdint>
#include <iomanip>
#include <locale>
#include <sstream>
#include <string>

#include "text.hpp"

namespace cln {

void write_obj(const std::filesystem::path& path, const std::vector<float>& vertices, const FaceModel& model) {
  if (vertices.size() != model.vertex_count() * 3) {
    detail::fail(ErrorCode::invalid_input, "mesh: expected " + std::to_string(model.vertex_count()) +
                                               " vertices, got " + std::to_string(vertices.size()) + " numbers");
  }
  std::ostringstream text;
  text.imbue(std::locale::classic());  // whatever the user's locale writes for a point
  text << std::fixed << std::setprecision(4);
  for (std::size_t i = 0; i < vertices.size(); i += 3) {
    text << "v " << vertices[i] << ' ' << -vertices[i + 1] << ' ' << vertices[i + 2] << '\n';
  }
  text << std::setprecision(6);
  for (std::size_t i = 0; i < model.uv().size(); i += 2) {
    text << "vt " << model.uv()[i] << ' ' << model.uv()[i + 1] << '\n';
  }
  for (std::size_t i = 0; i < model.triangles().size(); i += 3) {
    const auto* t = model.triangles().data() + i;
    text << "f";
    for (int corner = 0; corner < 3; ++corner) {
      text << ' ' << t[corner] + 1 << '/' << t[corner] + 1;
    }
    text << '\n';
  }
  detail::write_file(path, text.str());
}

}  // namespace cln
