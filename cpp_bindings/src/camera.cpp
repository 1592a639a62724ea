#include "cln/camera.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "cln/rasterizer.hpp"
#include "text.hpp"

namespace cln {
namespace {

using Vector = std::array<double, 3>;
using Matrix = std::array<double, 9>;
using Six = std::array<double, 6>;

constexpr std::size_t stride = 7;  // every 7th vertex takes part, beside the landmarks
constexpr int most_steps = 50;
constexpr double exact = 1e-12;  // square pixels
constexpr double farthest_center = 10, widest = 80, nearest = 1;  // focal lengths, degrees, mm
constexpr double degrees = 57.29577951308232;

[[noreturn]] void refuse(const std::string& message) { detail::fail(ErrorCode::invalid_input, message); }

std::string text(double value) {
  std::string digits = std::to_string(value);
  digits.erase(digits.find_last_not_of('0') + 1);
  return digits.back() == '.' ? digits.substr(0, digits.size() - 1) : digits;
}

Vector times(const Matrix& m, const Vector& v) {
  return {m[0] * v[0] + m[1] * v[1] + m[2] * v[2], m[3] * v[0] + m[4] * v[1] + m[5] * v[2],
          m[6] * v[0] + m[7] * v[1] + m[8] * v[2]};
}

Matrix times(const Matrix& a, const Matrix& b) {
  Matrix result{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      result[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
    }
  }
  return result;
}

/// Rodrigues' formula.
Matrix rotation(const Vector& vector) {
  const double angle = std::sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
  if (angle < 1e-12) {
    return {1, 0, 0, 0, 1, 0, 0, 0, 1};
  }
  const double x = vector[0] / angle, y = vector[1] / angle, z = vector[2] / angle;
  const double c = std::cos(angle), s = std::sin(angle), t = 1 - c;
  return {c + x * x * t,     x * y * t - z * s, x * z * t + y * s, y * x * t + z * s, c + y * y * t,
          y * z * t - x * s, z * x * t - y * s, z * y * t + x * s, c + z * z * t};
}

void check_face(const FaceModel& model, const Face& face) {
  if (face.params.size() != model.num_params() || face.landmarks.size() != landmark_count * 3 || face.crop_size < 1) {
    refuse("face: expected one of face model '" + model.name() + "', got another");
  }
}

void check_camera(const Camera& c) {
  for (const double value : {c.fx, c.fy, c.cx, c.cy}) {
    if (!std::isfinite(value)) {
      refuse("camera: expected finite numbers of pixels, got others");
    }
  }
  if (c.fx <= 0 || c.fy <= 0) {
    refuse("camera: expected focal lengths above 0 pixels, got " + text(c.fx) + " and " + text(c.fy));
  }
  if (std::max(std::abs(c.cx) / c.fx, std::abs(c.cy) / c.fy) > farthest_center) {
    refuse("camera: expected a centre within 10 focal lengths of the image's corner, got (" + text(c.cx) + ", " +
           text(c.cy) + ") with focal lengths (" + text(c.fx) + ", " + text(c.fy) + "); give all in pixels");
  }
}

std::vector<float> image_vertices(const FaceModel& model, const Face& face) {
  std::vector<float> points(model.vertex_count() * 3);
  model.vertices(face.params.data(), 1, points.data());
  face.roi.to_image(points.data(), model.vertex_count(), face.crop_size, points.data());
  return points;
}

std::vector<std::uint8_t> visible(const FaceModel& model, const Face& face, const std::vector<float>& points,
                                  const std::vector<float>& mesh) {
  const std::size_t count = points.size() / 3;
  std::vector<float> depth(count);
  surface_depth(points.data(), count, 3, mesh.data(), model.triangles().data(), model.triangles().size() / 3,
                depth.data());
  const auto margin = static_cast<float>(visibility_margin * face.pose.scale);
  std::vector<std::uint8_t> seen(count);
  for (std::size_t i = 0; i < count; ++i) {
    seen[i] = points[3 * i + 2] >= depth[i] - margin ? 1 : 0;
  }
  return seen;
}

/// A least-squares problem: model points, where the network sees them, and the ways in which a scaled-orthographic
/// camera moves their image (an orthonormal basis of 6 columns over x and y of each point).
struct Problem {
  std::vector<Vector> points;
  std::vector<std::array<double, 2>> observed;
  std::vector<std::array<Six, 2>> modes;
  Camera camera;
};

void add_points(Problem& problem, const std::vector<float>& model_points, const std::vector<float>& image_points,
                std::size_t step, double size) {
  for (std::size_t i = 0; i < model_points.size() / 3; i += step) {
    const float *m = &model_points[3 * i], *p = &image_points[3 * i];
    problem.points.push_back({m[0] * size, m[1] * size, m[2] * size});
    problem.observed.push_back({p[0], p[1]});
  }
}

/// Gram and Schmidt, twice, for full precision.
void set_modes(Problem& problem, const Matrix& turn, double scale) {
  problem.modes.clear();
  for (const Vector& point : problem.points) {
    const Vector p = times(turn, point);
    problem.modes.push_back({Six{0, scale * p[2], -scale * p[1], p[0], 1, 0},
                             Six{scale * p[2], 0, -scale * p[0], -p[1], 0, -1}});
  }
  for (std::size_t k = 0; k < 6; ++k) {
    for (int pass = 0; pass < 2; ++pass) {
      for (std::size_t j = 0; j < k; ++j) {
        double along = 0;
        for (const auto& mode : problem.modes) {
          along += mode[0][j] * mode[0][k] + mode[1][j] * mode[1][k];
        }
        for (auto& mode : problem.modes) {
          mode[0][k] -= along * mode[0][j];
          mode[1][k] -= along * mode[1][j];
        }
      }
    }
    double square = 0;
    for (const auto& mode : problem.modes) {
      square += mode[0][k] * mode[0][k] + mode[1][k] * mode[1][k];
    }
    for (auto& mode : problem.modes) {
      mode[0][k] /= std::sqrt(square);
      mode[1][k] /= std::sqrt(square);
    }
  }
}

/// How far the projected points are off along the modes, and its derivative by turn and shift; z of the nearest point.
struct Residual {
  Six value{};
  std::array<Six, 6> slope{};
  double nearest = 0;
};

Residual residual(const Problem& problem, const Matrix& turn, const Vector& shift) {
  Residual r;
  r.nearest = 1e300;
  const Camera& c = problem.camera;
  for (std::size_t i = 0; i < problem.points.size(); ++i) {
    const Vector p = times(turn, problem.points[i]);
    const double x = p[0] + shift[0], y = p[1] + shift[1], z = p[2] + shift[2];
    r.nearest = std::min(r.nearest, z);
    const double ax = c.fx / z, ay = c.fy / z;
    const double off[2] = {ax * x + c.cx - problem.observed[i][0], ay * y + c.cy - problem.observed[i][1]};
    const double bx = -ax * x / z, by = -ay * y / z;  // d(pixel) / dz
    const Six by_x = {p[1] * bx, p[2] * ax - p[0] * bx, -p[1] * ax, ax, 0, bx};
    const Six by_y = {p[1] * by - p[2] * ay, -p[0] * by, p[0] * ay, 0, ay, by};
    for (std::size_t k = 0; k < 6; ++k) {
      const double mx = problem.modes[i][0][k], my = problem.modes[i][1][k];
      r.value[k] += mx * off[0] + my * off[1];
      for (std::size_t j = 0; j < 6; ++j) {
        r.slope[k][j] += mx * by_x[j] + my * by_y[j];
      }
    }
  }
  return r;
}

double square(const Six& v) {
  double sum = 0;
  for (const double value : v) {
    sum += value * value;
  }
  return sum;
}

/// Solves (J^T J + damping * diag) step = -J^T r by Cholesky's decomposition.
Six solve_step(const Residual& r, double damping) {
  double a[6][6], b[6];
  for (std::size_t i = 0; i < 6; ++i) {
    b[i] = 0;
    for (std::size_t k = 0; k < 6; ++k) {
      b[i] -= r.slope[k][i] * r.value[k];
    }
    for (std::size_t j = 0; j < 6; ++j) {
      a[i][j] = 0;
      for (std::size_t k = 0; k < 6; ++k) {
        a[i][j] += r.slope[k][i] * r.slope[k][j];
      }
    }
  }
  for (std::size_t i = 0; i < 6; ++i) {
    a[i][i] += damping * (a[i][i] + 1e-12);
  }
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = a[i][j];
      for (std::size_t k = 0; k < j; ++k) {
        sum -= a[i][k] * a[j][k];
      }
      a[i][j] = i == j ? std::sqrt(std::max(sum, 1e-300)) : sum / a[j][j];
    }
  }
  Six step{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      b[i] -= a[i][k] * b[k];
    }
    b[i] /= a[i][i];
  }
  for (std::size_t i = 6; i-- > 0;) {
    for (std::size_t k = i + 1; k < 6; ++k) {
      b[i] -= a[k][i] * step[k];
    }
    step[i] = b[i] / a[i][i];
  }
  return step;
}

/// Levenberg and Marquardt, over a turn and a shift.
void solve(const Problem& problem, Matrix& turn, Vector& shift, double& error) {
  Residual now = residual(problem, turn, shift);
  if (!(now.nearest >= nearest)) {
    refuse("face: expected it before the camera, got a point " + text(std::round(now.nearest)) +
           " mm from it; check the focal lengths (" + text(problem.camera.fx) + ", " + text(problem.camera.fy) +
           ") and the scale");
  }
  double damping = 1e-4;
  for (int i = 0; i < most_steps && damping <= 1e9; ++i) {
    const Six step = solve_step(now, damping);
    const Matrix turned = times(rotation({step[0], step[1], step[2]}), turn);
    const Vector moved = {shift[0] + step[3], shift[1] + step[4], shift[2] + step[5]};
    const Residual tried = residual(problem, turned, moved);
    const double before = square(now.value), after = square(tried.value);
    if (!(tried.nearest >= nearest) || !(after < before)) {
      damping *= 10;
      if (tried.nearest >= nearest && after == before) {
        break;
      }
      continue;
    }
    turn = turned;
    shift = moved;
    now = tried;
    damping = std::max(damping / 10, 1e-12);
    if (after < exact || before - after <= 1e-12 * before) {
      break;
    }
  }
  error = std::sqrt(square(now.value) / static_cast<double>(problem.points.size()));
}

double pupil_size(const std::vector<float>& landmarks) {
  double square_sum = 0;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    double apart = 0;
    for (std::size_t i = 0; i < 6; ++i) {
      const double right = landmarks[3 * (36 + i) + axis], left = landmarks[3 * (42 + i) + axis];
      apart += (right - left) / 6;
    }
    square_sum += apart * apart;
  }
  return std::sqrt(square_sum);
}

}  // namespace

std::vector<std::uint8_t> visible_landmarks(const FaceModel& model, const Face& face) {
  check_face(model, face);
  return visible(model, face, face.landmarks, image_vertices(model, face));
}

std::vector<std::uint8_t> visible_vertices(const FaceModel& model, const Face& face) {
  check_face(model, face);
  const std::vector<float> mesh = image_vertices(model, face);
  return visible(model, face, mesh, mesh);
}

Camera Camera::from_fov(double angle, int width, int height) {
  if (!(angle > 0 && angle < 180)) {
    refuse("field of view: expected degrees between 0 and 180, got " + text(angle));
  }
  if (width < 1 || height < 1) {
    refuse("image size: expected a width and height above 0, got " + std::to_string(width) + " x " +
           std::to_string(height));
  }
  const double focal = width / 2.0 / std::tan(angle / degrees / 2);
  return {focal, focal, (width - 1) / 2.0, (height - 1) / 2.0};
}

MetricPose metric_pose(const FaceModel& model, const Face& face, const Camera& camera, double pupil_distance) {
  check_face(model, face);
  check_camera(camera);
  if (!(pupil_distance >= 0 && std::isfinite(pupil_distance))) {
    refuse("pupil distance: expected millimetres above 0, or 0 for the network's, got " + text(pupil_distance));
  }
  const bool finite = std::all_of(face.params.begin(), face.params.end(), [](float v) { return std::isfinite(v); });
  if (!finite || !(face.pose.scale > 0)) {
    refuse("face: expected finite params and a scale above 0, got others; they are damaged");
  }
  std::vector<float> params = face.params;
  const float unposed[pose_size] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
  std::copy(unposed, unposed + pose_size, params.begin());
  std::vector<float> landmarks(landmark_count * 3), vertices(model.vertex_count() * 3), seen(landmark_count * 3);
  model.landmarks(params.data(), 1, landmarks.data());
  model.vertices(params.data(), 1, vertices.data());
  model.landmarks(face.params.data(), 1, seen.data());
  face.roi.to_image(seen.data(), landmark_count, face.crop_size, seen.data());

  MetricPose pose;
  pose.scale = pupil_distance > 0 ? pupil_distance / pupil_size(landmarks) : 1.0;
  Problem problem;
  problem.camera = camera;
  add_points(problem, landmarks, seen, 1, pose.scale);
  add_points(problem, vertices, image_vertices(model, face), stride, pose.scale);
  set_modes(problem, face.pose.rotation, face.pose.scale / pose.scale);

  float origin[3] = {face.params[3], face.params[7], face.params[11]};
  face.roi.to_image(origin, 1, face.crop_size, origin);
  const double ray_x = (origin[0] - camera.cx) / camera.fx, ray_y = (origin[1] - camera.cy) / camera.fy;
  const double sine = std::hypot(ray_x, ray_y), away = std::atan(sine);
  if (away * degrees > widest) {
    refuse("face: expected it within 80 degrees of the camera's axis, got " + text(std::round(away * degrees)) +
           "; check the camera's centre, and that the face comes from this camera's image");
  }
  const double depth = std::sqrt(camera.fx * camera.fy) / face.pose.scale * pose.scale;
  const double along = sine > 0 ? away / sine : 0.0;
  const Matrix flipped = times(Matrix{1, 0, 0, 0, -1, 0, 0, 0, -1}, face.pose.rotation);
  pose.rotation = times(rotation({-ray_y * along, ray_x * along, 0}), flipped);
  pose.translation = {ray_x * depth, ray_y * depth, depth};
  solve(problem, pose.rotation, pose.translation, pose.error);
  return pose;
}

}  // namespace cln
