#include "cln/rasterizer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "dispatch.hpp"

namespace cln {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float tolerance = 1e-3F;  // pixels: rounding must open no gap along an edge that two triangles share

/// A triangle's corners, and what is linear inside it, relative to its first corner.
struct Triangle {
  float x0, y0, z0, ax, ay, bx, by, inverse;
  bool drawn;
};

CLN_INLINE Triangle corners(const float* vertices, const std::int32_t* t) {
  const float *a = vertices + 3 * static_cast<std::ptrdiff_t>(t[0]),
              *b = vertices + 3 * static_cast<std::ptrdiff_t>(t[1]),
              *c = vertices + 3 * static_cast<std::ptrdiff_t>(t[2]);
  Triangle r{a[0], a[1], a[2], b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1], 0, false};
  const float area = r.ax * r.by - r.bx * r.ay;
  r.drawn = std::abs(area) > 0 && std::abs(area) < infinity;  // false for NaN
  r.inverse = 1 / area;
  return r;
}

/// The slope of z (or of another value) along x and y, of its differences along the two edges.
CLN_INLINE void slopes(const Triangle& t, float da, float db, float& along_x, float& along_y) {
  along_x = (t.by * da - t.ay * db) * t.inverse;
  along_y = (t.ax * db - t.bx * da) * t.inverse;
}

CLN_INLINE int clamped(float value, int low, int high) {
  return static_cast<int>(std::min(std::max(value, static_cast<float>(low)), static_cast<float>(high)));
}

/// dx/dy of an edge; 0 of a level one, which bounds no row but its own.
CLN_INLINE float slope(const float* from, const float* to) {
  const float height = to[1] - from[1];
  return height > 0 ? (to[0] - from[0]) / height : 0.0F;
}

CLN_KERNEL void draw(const float* vertices, const std::int32_t* triangles, std::size_t count, int width, int height,
                     std::int32_t* number, float* depth) {
  for (std::size_t i = 0; i < count; ++i) {
    const Triangle t = corners(vertices, triangles + 3 * i);
    if (!t.drawn) {
      continue;
    }
    const float *a = vertices + 3 * static_cast<std::ptrdiff_t>(triangles[3 * i]),
                *b = vertices + 3 * static_cast<std::ptrdiff_t>(triangles[3 * i + 1]),
                *c = vertices + 3 * static_cast<std::ptrdiff_t>(triangles[3 * i + 2]);
    float zx, zy;
    slopes(t, b[2] - t.z0, c[2] - t.z0, zx, zy);
    // From top to bottom: the long edge a-c bounds each row on one side; a-b, and below b b-c, on the other.
    if (b[1] < a[1]) {
      std::swap(a, b);
    }
    if (c[1] < b[1]) {
      std::swap(b, c);
    }
    if (b[1] < a[1]) {
      std::swap(a, b);
    }
    const int top = clamped(std::ceil(a[1]), 0, height), bottom = clamped(std::floor(c[1]), -1, height - 1);
    const float longest = slope(a, c), upper = slope(a, b), lower = slope(b, c);
    for (int y = top; y <= bottom; ++y) {
      const float down = static_cast<float>(y) - a[1], under = static_cast<float>(y) - b[1];
      const float one = a[0] + down * longest, other = b[0] + under * (under < 0 ? upper : lower);
      const int left = clamped(std::ceil(std::min(one, other) - tolerance), 0, width);
      const int right = clamped(std::floor(std::max(one, other) + tolerance), -1, width - 1);
      const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(y) * width;
      const float start = a[2] + zx * (static_cast<float>(left) - a[0]) + zy * down;
      for (int x = left; x <= right; ++x) {
        const float z = start + zx * static_cast<float>(x - left);
        if (z > depth[row + x]) {
          depth[row + x] = z;
          number[row + x] = static_cast<std::int32_t>(i);
        }
      }
    }
  }
}

template <std::size_t Channels>
CLN_INLINE void fill(const float* vertices, const std::int32_t* triangles, const std::int32_t* number, int width,
                     int height, const float* values, std::size_t given, bool unit, float* out) {
  const std::size_t channels = Channels ? Channels : given;
  std::int32_t last = -1;
  Triangle t{};
  const float *a = nullptr, *b = nullptr, *c = nullptr;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x, ++number, out += channels) {
      if (*number < 0) {
        std::fill(out, out + channels, 0.0F);
        continue;
      }
      if (*number != last) {
        last = *number;
        const std::int32_t* corner = triangles + 3 * static_cast<std::ptrdiff_t>(last);
        t = corners(vertices, corner);
        a = values + static_cast<std::size_t>(corner[0]) * channels;
        b = values + static_cast<std::size_t>(corner[1]) * channels;
        c = values + static_cast<std::size_t>(corner[2]) * channels;
      }
      const float px = static_cast<float>(x) - t.x0, py = static_cast<float>(y) - t.y0;
      const float w1 = (px * t.by - py * t.bx) * t.inverse, w2 = (t.ax * py - t.ay * px) * t.inverse;
      for (std::size_t k = 0; k < channels; ++k) {
        out[k] = a[k] + w1 * (b[k] - a[k]) + w2 * (c[k] - a[k]);
      }
      if (unit) {
        float square = 0;
        for (std::size_t k = 0; k < channels; ++k) {
          square += out[k] * out[k];
        }
        const float scale = 1 / std::sqrt(std::max(square, 1e-30F));
        for (std::size_t k = 0; k < channels; ++k) {
          out[k] *= scale;
        }
      }
    }
  }
}

/// Points sorted into a grid of cells, so that a triangle meets those near it alone.
class Grid {
 public:
  Grid(const float* points, std::size_t count, std::size_t stride) : starts_(cell_count + 1), sorted_(count) {
    float low[2] = {infinity, infinity}, high[2] = {-infinity, -infinity};
    for (std::size_t i = 0; i < count; ++i) {
      const float* p = points + i * stride;
      if (std::abs(p[0]) < infinity && std::abs(p[1]) < infinity) {
        for (std::size_t axis = 0; axis < 2; ++axis) {
          low[axis] = std::min(low[axis], p[axis]);
          high[axis] = std::max(high[axis], p[axis]);
        }
      }
    }
    for (std::size_t axis = 0; axis < 2; ++axis) {
      low_[axis] = low[axis] < infinity ? low[axis] : 0.0F;
      scale_[axis] = high[axis] > low[axis] ? static_cast<float>(side) / (high[axis] - low[axis]) : 0.0F;
    }
    std::vector<std::int32_t> cells(count);
    for (std::size_t i = 0; i < count; ++i) {
      const float* p = points + i * stride;
      const bool known = std::abs(p[0]) < infinity && std::abs(p[1]) < infinity;
      cells[i] = known ? place(p[1], 1) * side + place(p[0], 0) : -1;
      if (known) {
        ++starts_[static_cast<std::size_t>(cells[i]) + 1];
      }
    }
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    std::vector<std::size_t> next(starts_.begin(), starts_.end() - 1);
    for (std::size_t i = 0; i < count; ++i) {
      if (cells[i] >= 0) {
        sorted_[next[static_cast<std::size_t>(cells[i])]++] = i;
      }
    }
  }

  /// The cell along an axis, of a value anywhere: what lies outside belongs to the nearest.
  [[nodiscard]] int place(float value, std::size_t axis) const {
    return std::min(clamped((value - low_[axis]) * scale_[axis], 0, side), side - 1);
  }

  /// The points of the cells left..right of a row.
  [[nodiscard]] std::pair<const std::size_t*, const std::size_t*> run(int left, int right, int y) const {
    const auto cell = [y](int x) { return static_cast<std::size_t>(y * side + x); };
    return {sorted_.data() + starts_[cell(left)], sorted_.data() + starts_[cell(right) + 1]};
  }

 private:
  static constexpr int side = 64;
  static constexpr std::size_t cell_count = side * side;
  float low_[2], scale_[2];
  std::vector<std::size_t> starts_, sorted_;
};

}  // namespace

void rasterize(const float* vertices, const std::int32_t* triangles, std::size_t count, int width, int height,
               std::int32_t* number, float* depth) {
  const std::size_t pixels = static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
  std::fill(number, number + pixels, -1);
  std::fill(depth, depth + pixels, -infinity);
  draw(vertices, triangles, count, width, height, number, depth);
}

void vertex_normals(const float* vertices, std::size_t vertex_count, const std::int32_t* triangles, std::size_t count,
                    float* normals) {
  std::fill(normals, normals + 3 * vertex_count, 0.0F);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t* t = triangles + 3 * i;
    const float *p = vertices + 3 * static_cast<std::ptrdiff_t>(t[0]),
                *q = vertices + 3 * static_cast<std::ptrdiff_t>(t[1]),
                *r = vertices + 3 * static_cast<std::ptrdiff_t>(t[2]);
    const float u[3] = {r[0] - p[0], r[1] - p[1], r[2] - p[2]}, v[3] = {q[0] - p[0], q[1] - p[1], q[2] - p[2]};
    const float n[3] = {u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]};
    for (int corner = 0; corner < 3; ++corner) {
      float* sum = normals + 3 * static_cast<std::ptrdiff_t>(t[corner]);
      for (int k = 0; k < 3; ++k) {
        sum[k] += n[k];
      }
    }
  }
  for (std::size_t i = 0; i < vertex_count; ++i) {
    float* n = normals + 3 * i;
    const float scale = 1 / (std::sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-12F);
    n[0] *= scale, n[1] *= scale, n[2] *= scale;
  }
}

void interpolate(const float* vertices, const std::int32_t* triangles, const std::int32_t* number, int width,
                 int height, const float* values, std::size_t channels, float* out, bool unit) {
  if (channels == 3) {
    fill<3>(vertices, triangles, number, width, height, values, channels, unit, out);
  } else {
    fill<0>(vertices, triangles, number, width, height, values, channels, unit, out);
  }
}

void surface_depth(const float* points, std::size_t point_count, std::size_t stride, const float* vertices,
                   const std::int32_t* triangles, std::size_t count, float* depth) {
  std::fill(depth, depth + point_count, -infinity);
  const Grid grid(points, point_count, stride);
  constexpr float inside = -1e-5F;  // of a weight: a vertex lies in its own triangles, whatever is rounded
  for (std::size_t i = 0; i < count; ++i) {
    const Triangle t = corners(vertices, triangles + 3 * i);
    if (!t.drawn) {
      continue;
    }
    const float z1 = vertices[3 * static_cast<std::ptrdiff_t>(triangles[3 * i + 1]) + 2] - t.z0;
    const float z2 = vertices[3 * static_cast<std::ptrdiff_t>(triangles[3 * i + 2]) + 2] - t.z0;
    const int left = grid.place(t.x0 + std::min({0.0F, t.ax, t.bx}), 0);
    const int right = grid.place(t.x0 + std::max({0.0F, t.ax, t.bx}), 0);
    const int top = grid.place(t.y0 + std::min({0.0F, t.ay, t.by}), 1);
    const int bottom = grid.place(t.y0 + std::max({0.0F, t.ay, t.by}), 1);
    for (int y = top; y <= bottom; ++y) {
      const auto [begin, end] = grid.run(left, right, y);
      for (const std::size_t* k = begin; k != end; ++k) {
        const float px = points[*k * stride] - t.x0, py = points[*k * stride + 1] - t.y0;
        const float w1 = (px * t.by - py * t.bx) * t.inverse, w2 = (t.ax * py - t.ay * px) * t.inverse;
        if (w1 >= inside && w2 >= inside && w1 + w2 <= 1 - inside) {
          depth[*k] = std::max(depth[*k], t.z0 + w1 * z1 + w2 * z2);
        }
      }
    }
  }
}

}  // namespace cln
