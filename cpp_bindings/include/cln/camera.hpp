// What a face hides of itself, and where a head stands before a camera whose intrinsics are known: the answers of
// runtime/visibility.py and runtime/camera.py, which explain them.
//
// OpenCV's camera frame: x right, y down, z forward, millimetres; pixel = (fx * x / z + cx, fy * y / z + cy), pixel
// centres at integers. A point X of the face model lies at scale * rotation * X + translation.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cln/face_model.hpp"
#include "cln/reconstructor.hpp"

namespace cln {

/// Millimetres by which the mesh may lie before a point that is seen.
inline constexpr double visibility_margin = 1.0;

/// Which landmarks (68,) the face does not hide itself: 1 seen, 0 hidden.
/// Throws Error(invalid_input): the face is not one of this model.
std::vector<std::uint8_t> visible_landmarks(const FaceModel& model, const Face& face);

/// The same of all vertices (N,).
std::vector<std::uint8_t> visible_vertices(const FaceModel& model, const Face& face);

/// A pinhole camera: focal lengths and principal point in pixels.
struct Camera {
  double fx = 0, fy = 0, cx = 0, cy = 0;

  /// A camera of square pixels that sees `degrees` from left to right, centred in its image.
  /// Throws Error(invalid_input): no such angle or size.
  static Camera from_fov(double degrees, int width, int height);
};

/// Where a head stands.
struct MetricPose {
  std::array<double, 9> rotation{};     ///< row-major 3 x 3, model frame to OpenCV's camera frame
  std::array<double, 3> translation{};  ///< millimetres: the head's origin
  double scale = 1;                     ///< true millimetres per millimetre of the face model
  double error = 0;                     ///< pixels, root mean square, perspective taken out
};

/// Where the head stands before `camera`. `pupil_distance`: the true distance between the pupils in millimetres (the
/// means of the six landmarks around each eye); 0: the size that the network gave the face.
/// Throws Error(invalid_input): no camera or distance; the face is behind the camera or nearly beside it.
MetricPose metric_pose(const FaceModel& model, const Face& face, const Camera& camera, double pupil_distance = 0);

}  // namespace cln
