#include "cln/face_model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "safetensors.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace cln {
namespace {

using detail::fail;
using detail::Safetensors;
using detail::TensorView;

float half_to_float(std::uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int fraction = half & 1023;
  float value = 0;
  if (exponent == 31) {
    value = fraction != 0 ? NAN : INFINITY;
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  }
  return (half & 0x8000) != 0 ? -value : value;
}

template <typename T>
std::vector<T> copy(const TensorView& view) {  // little-endian hosts, as everywhere that this is built for
  std::vector<T> values(view.count);
  std::memcpy(values.data(), view.data, view.count * sizeof(T));
  return values;
}

/// Takes tensors out of the container by name, checking type and shape; symbols must agree between tensors.
class Reader {
 public:
  Reader(const Safetensors& file, const std::string& name) : file_(file), name_(name) {}

  const TensorView& get(const std::string& key, const std::string& types, const std::vector<std::string>& shape) {
    const auto found = file_.tensors.find(key);
    if (found == file_.tensors.end()) {
      fail(ErrorCode::file_format, name_ + ": expected the tensor '" + key + "', found none; make the file again");
    }
    const TensorView& view = found->second;
    bool fits = view.shape.size() == shape.size() && view.count > 0 && types.find(view.dtype) != std::string::npos;
    for (std::size_t i = 0; fits && i < shape.size(); ++i) {
      fits = sizes_.emplace(shape[i], view.shape[i]).first->second == view.shape[i];
    }
    if (!fits) {
      fail(ErrorCode::file_format, name_ + ": expected '" + key + "' as " + types +
                                       " of a shape that fits the others, got " + view.dtype + " of " +
                                       std::to_string(view.count) + " numbers; make the file again");
    }
    ++used_;
    return view;
  }

  std::vector<float> floats(const std::string& key, const std::string& types, const std::vector<std::string>& shape) {
    const TensorView& view = get(key, types, shape);
    std::vector<float> values;
    if (view.dtype == "F16") {
      for (const std::uint16_t half : copy<std::uint16_t>(view)) {
        values.push_back(half_to_float(half));
      }
    } else {
      values = copy<float>(view);
    }
    for (const float value : values) {
      if (!std::isfinite(value)) {
        fail(ErrorCode::file_format, name_ + ": '" + key + "' holds NaN or infinity; make the file again");
      }
    }
    return values;
  }

  std::vector<std::int32_t> vertices(const std::string& key, const std::vector<std::string>& shape) {
    auto values = copy<std::int32_t>(get(key, "I32", shape));
    for (const std::int32_t value : values) {
      if (value < 0 || static_cast<std::size_t>(value) >= sizes_["N"]) {
        fail(ErrorCode::file_format, name_ + ": '" + key + "' names vertices outside the mesh; make the file again");
      }
    }
    return values;
  }

  void finish() const {
    if (used_ != file_.tensors.size()) {
      fail(ErrorCode::file_format, name_ + ": expected " + std::to_string(used_) + " tensors, got " +
                                       std::to_string(file_.tensors.size()) + "; make the file again");
    }
  }

 private:
  const Safetensors& file_;
  const std::string& name_;
  std::map<std::string, std::size_t> sizes_ = {{"2", 2}, {"3", 3}, {"68", landmark_count}};
  std::size_t used_ = 0;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back().push_back(c);
    }
  }
  return parts;
}

std::string value_or(const std::map<std::string, std::string>& map, const std::string& key, const std::string& other) {
  const auto found = map.find(key);
  return found != map.end() ? found->second : other;
}

/// The rows' points at the landmarks: weighted sums of three vertices each.
std::vector<float> at_landmarks(const std::vector<float>& rows, std::size_t points,
                                const std::vector<std::int32_t>& triangles, const std::vector<float>& weights) {
  std::vector<float> picked;
  for (std::size_t start = 0; start < rows.size(); start += 3 * points) {
    for (std::size_t corner = 0; corner < triangles.size(); corner += 3) {
      for (std::size_t axis = 0; axis < 3; ++axis) {
        float sum = 0;
        for (std::size_t k = corner; k < corner + 3; ++k) {
          sum += weights[k] * rows[start + 3 * static_cast<std::size_t>(triangles[k]) + axis];
        }
        picked.push_back(sum);
      }
    }
  }
  return picked;
}

/// The special case of version 1: each landmark is a vertex.
void place_at_vertices(const std::vector<std::int32_t>& vertices, std::vector<std::int32_t>& triangles,
                       std::vector<float>& weights) {
  for (const std::int32_t vertex : vertices) {
    triangles.insert(triangles.end(), 3, vertex);
    weights.insert(weights.end(), {1.0F, 0.0F, 0.0F});
  }
}

void check_weights(const std::vector<float>& weights, const std::string& name) {
  constexpr float tolerance = 1e-3F;  // how far a weight may lie outside 0..1, and a row's sum from 1
  for (std::size_t i = 0; i < weights.size(); i += 3) {
    const float sum = weights[i] + weights[i + 1] + weights[i + 2];
    const float smallest = std::min({weights[i], weights[i + 1], weights[i + 2]});
    if (smallest < -tolerance || std::abs(sum - 1) > tolerance) {
      fail(ErrorCode::file_format, name + ": expected 'landmark_weights' from 0 to 1 that sum to 1 in each row, got " +
                                       std::to_string(sum) + " in row " + std::to_string(i / 3) +
                                       "; make the file again");
    }
  }
}

}  // namespace

/// What a file holds, on its way into a model.
struct FaceModel::Tensors {
  std::string name, license, sha256;
  std::vector<std::string> region_names;
  std::vector<float> mean, shape_sigma, expression_sigma, uv, landmark_weights;
  std::vector<std::int32_t> triangles, landmark_triangles, mirror;
  std::vector<std::uint8_t> region;
  std::vector<float> rows;  // (1 + S + E, N, 3): mean and modes
};

FaceModel::FaceModel(Tensors&& t)
    : name_(std::move(t.name)),
      license_(std::move(t.license)),
      sha256_(std::move(t.sha256)),
      shape_count_(t.shape_sigma.size()),
      expression_count_(t.expression_sigma.size()),
      mean_(std::move(t.mean)),
      shape_sigma_(std::move(t.shape_sigma)),
      expression_sigma_(std::move(t.expression_sigma)),
      uv_(std::move(t.uv)),
      landmark_weights_(std::move(t.landmark_weights)),
      triangles_(std::move(t.triangles)),
      landmark_triangles_(std::move(t.landmark_triangles)),
      mirror_(std::move(t.mirror)),
      region_(std::move(t.region)),
      region_names_(std::move(t.region_names)),
      vertices_(t.rows.data(), shape_count_ + expression_count_, mean_.size() / 3),
      landmarks_(at_landmarks(t.rows, mean_.size() / 3, landmark_triangles_, landmark_weights_).data(),
                 shape_count_ + expression_count_, landmark_count) {}

FaceModel FaceModel::parse(const std::uint8_t* data, std::size_t size, const std::string& name) {
  const Safetensors file = detail::parse_safetensors(data, size, name);
  const std::string format = value_or(file.metadata, "format", "none");
  const std::string version = value_or(file.metadata, "version", "none");
  if (format != "cln.face_model" || (version != "1" && version != "2")) {
    fail(ErrorCode::file_format, name + ": expected a file of format 'cln.face_model' version 1 or 2, got '" + format +
                                     "' version " + version + "; convert or fetch the right one");
  }
  Reader reader(file, name);
  Tensors t;
  t.mean = reader.floats("mean", "F32", {"N", "3"});
  const auto shape_basis = reader.floats("shape_basis", "F16 or F32", {"S", "N", "3"});
  const auto expression_basis = reader.floats("expression_basis", "F16 or F32", {"E", "N", "3"});
  t.shape_sigma = reader.floats("shape_sigma", "F32", {"S"});
  t.expression_sigma = reader.floats("expression_sigma", "F32", {"E"});
  reader.floats("shape_mirror", "F32", {"S"});  // checked, but of use in training alone
  reader.floats("expression_mirror", "F32", {"E"});
  t.triangles = reader.vertices("triangles", {"T", "3"});
  if (version == "1") {
    place_at_vertices(reader.vertices("landmark_vertices", {"68"}), t.landmark_triangles, t.landmark_weights);
  } else {
    t.landmark_triangles = reader.vertices("landmark_triangles", {"68", "3"});
    t.landmark_weights = reader.floats("landmark_weights", "F32", {"68", "3"});
    check_weights(t.landmark_weights, name);
  }
  t.mirror = reader.vertices("mirror", {"N"});
  t.uv = reader.floats("uv", "F32", {"N", "2"});
  t.region = copy<std::uint8_t>(reader.get("region", "U8", {"N"}));
  reader.finish();
  t.rows = t.mean;
  t.rows.insert(t.rows.end(), shape_basis.begin(), shape_basis.end());
  t.rows.insert(t.rows.end(), expression_basis.begin(), expression_basis.end());
  t.name = value_or(file.metadata, "name", name);
  t.license = value_or(file.metadata, "license", "");
  t.region_names = split(value_or(file.metadata, "region_names", ""));
  t.sha256 = detail::sha256(data, size);
  return FaceModel(std::move(t));
}

FaceModel FaceModel::load(const std::filesystem::path& path) {
  const auto data = detail::read_file(path);
  return parse(data.data(), data.size(), path.string());
}

}  // namespace cln
