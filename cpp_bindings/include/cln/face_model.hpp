// The face model (a 3D morphable model, 3DMM) and its decoding.
//
// Model frame: millimetres, origin at the middle of the face, +x to the subject's left, +y up, +z out of the face.
//
//     params = [P (3 x 4, row-major), alpha (shape), beta (expression)]
//     vertices = P[:, :3] * (mean + S * alpha + E * beta) + P[:, 3]
//
// in the crop's frame: pixels, x right, y down, z towards the viewer. 68 landmarks follow iBUG's numbering. The file
// is a safetensors container; runtime/face_model/__init__.py lists its tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace cln {

inline constexpr std::size_t pose_size = 12;       ///< numbers of the pose matrix, first in the params
inline constexpr std::size_t landmark_count = 68;  ///< iBUG's

/// Turns params into points. Immutable after construction: one decoder serves many threads.
class Decoder {
 public:
  /// `rows`: (1 + modes, points * 3): the mean, then one row per mode, x, y, z interleaved. Copied.
  Decoder(const float* rows, std::size_t modes, std::size_t points);

  [[nodiscard]] std::size_t points() const noexcept { return points_; }
  [[nodiscard]] std::size_t num_params() const noexcept { return pose_size + modes_; }

  /// Writes (batch, points, 3) to `out`, of params (batch, 12 + modes). `threads` > 1 shares the points out among that
  /// many threads, which pays from some hundred thousand points per call on. Throws Error(invalid_input): threads < 1.
  void decode(const float* params, std::size_t batch, float* out, int threads = 1) const;

 private:
  std::size_t modes_;
  std::size_t points_;
  std::vector<float> tiles_;  // (tiles, 1 + modes, 3, tile): planes, so that every step runs over consecutive floats
};

/// A 3DMM. Immutable; share it between reconstructors and threads.
class FaceModel {
 public:
  /// Reads a face-model file. Throws Error(file_not_found, file_format).
  static FaceModel load(const std::filesystem::path& path);

  /// As load, from memory; `name` is used in errors. The bytes are not needed afterwards.
  static FaceModel parse(const std::uint8_t* data, std::size_t size, const std::string& name);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::string& license() const noexcept { return license_; }
  [[nodiscard]] const std::string& sha256() const noexcept { return sha256_; }  ///< of the file, lower-case hex
  [[nodiscard]] std::size_t shape_count() const noexcept { return shape_count_; }
  [[nodiscard]] std::size_t expression_count() const noexcept { return expression_count_; }
  [[nodiscard]] std::size_t num_params() const noexcept { return pose_size + shape_count_ + expression_count_; }
  [[nodiscard]] std::size_t vertex_count() const noexcept { return mean_.size() / 3; }

  [[nodiscard]] const std::vector<float>& mean() const noexcept { return mean_; }                ///< (N, 3) mm
  [[nodiscard]] const std::vector<float>& shape_sigma() const noexcept { return shape_sigma_; }  ///< (S,)
  [[nodiscard]] const std::vector<float>& expression_sigma() const noexcept { return expression_sigma_; }  ///< (E,)
  [[nodiscard]] const std::vector<std::int32_t>& triangles() const noexcept { return triangles_; }  ///< (T, 3) outward
  /// (68, 3) the vertices around each landmark, and their shares of it: a landmark is a point of the surface.
  [[nodiscard]] const std::vector<std::int32_t>& landmark_triangles() const noexcept { return landmark_triangles_; }
  [[nodiscard]] const std::vector<float>& landmark_weights() const noexcept { return landmark_weights_; }  ///< (68, 3)
  [[nodiscard]] const std::vector<std::int32_t>& mirror() const noexcept { return mirror_; }  ///< (N,) partners
  [[nodiscard]] const std::vector<float>& uv() const noexcept { return uv_; }                 ///< (N, 2)
  [[nodiscard]] const std::vector<std::uint8_t>& region() const noexcept { return region_; }  ///< (N,) into names
  [[nodiscard]] const std::vector<std::string>& region_names() const noexcept { return region_names_; }

  /// 68 landmarks (batch, 68, 3) in the crop's frame, of params (batch, num_params()).
  void landmarks(const float* params, std::size_t batch, float* out) const { landmarks_.decode(params, batch, out); }

  /// All vertices (batch, N, 3) in the crop's frame. See Decoder::decode for `threads`.
  void vertices(const float* params, std::size_t batch, float* out, int threads = 1) const {
    vertices_.decode(params, batch, out, threads);
  }

 private:
  struct Tensors;
  explicit FaceModel(Tensors&& tensors);

  std::string name_, license_, sha256_;
  std::size_t shape_count_, expression_count_;
  std::vector<float> mean_, shape_sigma_, expression_sigma_, uv_, landmark_weights_;
  std::vector<std::int32_t> triangles_, landmark_triangles_, mirror_;
  std::vector<std::uint8_t> region_;
  std::vector<std::string> region_names_;
  Decoder vertices_, landmarks_;
};

}  // namespace cln
