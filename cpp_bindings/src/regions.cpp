#include "regions.hpp"

#include <cmath>
#include <cstddef>

#include "cln/face_model.hpp"

namespace cln::detail {
namespace {

constexpr double degrees = 57.29577951308232;
constexpr double seen_upright = 0.3;  // runtime/pose.py says of what

}  // namespace

double angle_between(double angle, double other) {
  const double turn = std::fmod(angle - other + 180, 360.0);
  return (turn < 0 ? turn + 360 : turn) - 180;
}

double distance(const Roi& a, const Roi& b) { return std::hypot(a.center_x - b.center_x, a.center_y - b.center_y); }

bool is_off(const Roi& roi, const Roi& better, double way, double turn) {
  return distance(roi, better) > way * roi.side || std::abs(std::log(better.side / roi.side)) > 2 * way ||
         std::abs(angle_between(better.angle, roi.angle)) > turn;
}

Roi on_grid(const Roi& roi) {
  const double unit = std::ldexp(1.0, static_cast<int>(std::nearbyint(std::log2(roi.side))) - 8);
  const auto nearest = [](double value, double step) { return step * std::nearbyint(value / step); };
  return {nearest(roi.center_x, unit), nearest(roi.center_y, unit), nearest(roi.side, unit),
          nearest(roi.angle, 0.25)};
}

Roi asked_roi(const Face& face) {
  const double x = face.pose.rotation[1], y = face.pose.rotation[4];
  const double angle = std::hypot(x, y) > seen_upright ? std::atan2(x, y) * degrees : face.roi.angle;
  return Roi::from_landmarks(face.landmarks.data(), landmark_count, angle);
}

std::vector<float> moved(const std::vector<float>& params, const Roi& roi, const Roi& other, int size) {
  // Out of the one crop into the image, x = center + R(angle) * (u - middle) * scale, and back into the other.
  const double scale = roi.side / other.side, turn = (roi.angle - other.angle) / degrees;
  const double c = scale * std::cos(turn), s = scale * std::sin(turn), middle = (size - 1) / 2.0;
  const double back = other.angle / degrees, unit = size / other.side;
  const double x = roi.center_x - other.center_x, y = roi.center_y - other.center_y;
  const double shift_x = middle + unit * (std::cos(back) * x + std::sin(back) * y);
  const double shift_y = middle + unit * (std::cos(back) * y - std::sin(back) * x);
  std::vector<float> result = params;
  for (std::size_t k = 0; k < 4; ++k) {
    const double from = k == 3 ? middle : 0.0;
    const double across = double{params[k]} - from, down = double{params[4 + k]} - from;
    result[k] = static_cast<float>(c * across - s * down + (k == 3 ? shift_x : 0.0));
    result[4 + k] = static_cast<float>(s * across + c * down + (k == 3 ? shift_y : 0.0));
    result[8 + k] = static_cast<float>(scale * double{params[8 + k]});
  }
  return result;
}

}  // namespace cln::detail
