#include "cln/pose.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace cln {
namespace {

using Vector = std::array<double, 3>;
using Columns = std::array<Vector, 3>;  // a matrix as its columns

double dot(const Vector& a, const Vector& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

Vector cross(const Vector& a, const Vector& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

void rotate(Vector& a, Vector& b, double c, double s) {
  for (std::size_t i = 0; i < 3; ++i) {
    const double x = a[i], y = b[i];
    a[i] = c * x - s * y;
    b[i] = s * x + c * y;
  }
}

/// One-sided Jacobi (Hestenes, 1958): turns `a` until its columns are orthogonal, and `v` along: a = (given a) * v.
void orthogonalize(Columns& a, Columns& v) {
  static constexpr std::pair<std::size_t, std::size_t> pairs[] = {{0, 1}, {0, 2}, {1, 2}};
  for (int sweep = 0; sweep < 30; ++sweep) {
    bool done = true;
    for (const auto& [i, j] : pairs) {
      const double along = dot(a[i], a[j]), square = dot(a[j], a[j]) - dot(a[i], a[i]);
      if (std::abs(along) <= 1e-15 * std::sqrt(dot(a[i], a[i]) * dot(a[j], a[j]))) {
        continue;
      }
      done = false;
      const double zeta = square / (2 * along);
      const double t = std::copysign(1.0, zeta) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
      const double c = 1 / std::sqrt(1 + t * t);
      rotate(a[i], a[j], c, c * t);
      rotate(v[i], v[j], c, c * t);
    }
    if (done) {
      break;
    }
  }
}

/// `a` scaled to length 1; any direction at right angles to `other` where it has no length.
Vector unit(const Vector& a, const Vector& other) {
  const double length = std::sqrt(dot(a, a));
  if (length > 0) {
    return {a[0] / length, a[1] / length, a[2] / length};
  }
  const Vector axis = std::abs(other[0]) < 0.5 ? Vector{1, 0, 0} : Vector{0, 1, 0};
  const Vector across = cross(other, axis);
  return dot(across, across) > 0 ? unit(across, other) : axis;
}

void set_angles(Pose& pose) {
  constexpr double degrees = 57.29577951308232;
  constexpr double gimbal = 1 - 1e-9;
  const auto& r = pose.rotation;
  // R[0] = [cy cr, cy sr, -sy]; R[:, 2] = [-sy, sp cy, cp cy]
  const double sin_yaw = std::clamp(-r[2], -1.0, 1.0);
  const bool free = std::abs(sin_yaw) < gimbal;
  pose.yaw = std::asin(sin_yaw) * degrees;
  pose.pitch = (free ? std::atan2(r[5], r[8]) : std::atan2(-r[7], r[4])) * degrees;
  pose.roll = free ? std::atan2(r[1], r[0]) * degrees : 0.0;
}

}  // namespace

Pose decompose(const float* matrix) {
  Columns a{}, v = {Vector{1, 0, 0}, Vector{0, 1, 0}, Vector{0, 0, 1}};
  for (std::size_t row = 0; row < 3; ++row) {
    for (std::size_t column = 0; column < 3; ++column) {
      a[column][row] = (row == 1 ? -1.0 : 1.0) * static_cast<double>(matrix[4 * row + column]);
    }
  }
  orthogonalize(a, v);
  std::array<std::size_t, 3> order = {0, 1, 2};
  std::sort(order.begin(), order.end(),
            [&a](std::size_t i, std::size_t j) { return dot(a[i], a[i]) > dot(a[j], a[j]); });
  Pose pose;
  for (const Vector& column : a) {
    pose.scale += std::sqrt(dot(column, column)) / 3;
  }
  // The last column follows from the others, so that the rotation is a proper one (Kabsch's sign).
  const Vector u0 = unit(a[order[0]], {0, 0, 1}), u1 = unit(a[order[1]], u0), u2 = cross(u0, u1);
  const Vector v0 = v[order[0]], v1 = v[order[1]], v2 = cross(v0, v1);
  for (std::size_t row = 0; row < 3; ++row) {
    for (std::size_t column = 0; column < 3; ++column) {
      pose.rotation[3 * row + column] = u0[row] * v0[column] + u1[row] * v1[column] + u2[row] * v2[column];
    }
    pose.translation[row] = static_cast<double>(matrix[4 * row + 3]);
  }
  set_angles(pose);
  return pose;
}

Pose turned(const Pose& pose, double angle) {
  constexpr double radians = 0.017453292519943295;
  const double c = std::cos(angle * radians), s = std::sin(angle * radians);
  Pose result = pose;
  for (std::size_t column = 0; column < 3; ++column) {  // Rz(angle) * R
    const double x = pose.rotation[column], y = pose.rotation[3 + column];
    result.rotation[column] = c * x + s * y;
    result.rotation[3 + column] = c * y - s * x;
  }
  set_angles(result);
  return result;
}

}  // namespace cln
