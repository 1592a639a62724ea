// Head pose, in the convention of 300W-LP and AFLW2000-3D, as in the Python runtime (runtime/pose.py): in the model
// frame (x to the subject's left, y up, z out of the face) R = Rx(pitch) * Ry(yaw) * Rz(roll) with
//
//     Rx = [[1, 0, 0], [0, c, s], [0, -s, c]]
//     Ry = [[c, 0, -s], [0, 1, 0], [s, 0, c]]
//     Rz = [[c, s, 0], [-s, c, 0], [0, 0, 1]]
//
// yaw > 0: the face turns to the image's left; pitch > 0: up; roll > 0: clockwise. At yaw = +-90 degrees roll is 0.
// The crop frame's y points down: P[:, :3] = scale * diag(1, -1, 1) * R.
#pragma once

#include <array>

namespace cln {

/// A pose matrix taken apart.
struct Pose {
  double yaw = 0, pitch = 0, roll = 0;  ///< degrees
  std::array<double, 9> rotation{};     ///< row-major 3 x 3, model frame to a camera frame with y up
  double scale = 0;                     ///< pixels per millimetre, in the frame of the matrix
  std::array<double, 3> translation{};  ///< pixels
};

/// Takes `matrix` (row-major 3 x 4, as the first 12 params) apart. It is only nearly a scaled rotation: the rotation is
/// the nearest one in the least-squares sense (Kabsch, 1976), the scale the mean of the singular values.
Pose decompose(const float* matrix);

/// The pose seen in an image whose content is turned by `angle` degrees, clockwise as seen: rotation and angles follow,
/// scale and translation stay.
Pose turned(const Pose& pose, double angle);

}  // namespace cln
