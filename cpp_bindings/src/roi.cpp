#include "cln/roi.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "text.hpp"

namespace cln {
namespace {

constexpr double limit = 1e9;  // pixels: beyond any image, well within what the arithmetic holds
constexpr int max_size = 32766;
constexpr double radians = 0.017453292519943295;  // in a degree

// Added to a float below 2^22, this leaves the nearest integer (ties to even, as OpenCV rounds) in the lowest bits.
constexpr float rounding = 12582912.0F;  // 1.5 * 2^23

CLN_INLINE std::uint8_t round_to_byte(float value) {
  const float shifted = value + rounding;
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return static_cast<std::uint8_t>(bits & 0xFFU);
}

/// Between which two pixels of a row or column a crop pixel lies, and how far from the first.
struct Tap {
  int first, second;
  float weight;  // of the second
};

// The arithmetic is that of OpenCV's warpAffine, so that both cut the same bytes: a place is a float, whose row's part
// is a rounded product and a rounded sum, and whose column's part is added in one rounding; pixels are blended across,
// then down. Kernels do a + w * (b - a) in one rounding where the processor can: CMakeLists.txt lets the compiler do so.

Tap make_tap(float at, int length) {
  const float within = std::min(std::max(at, -1.0F), static_cast<float>(length));
  const float low = std::floor(within);
  const int first = static_cast<int>(low);
  return {std::clamp(first, 0, length - 1), std::clamp(first + 1, 0, length - 1), within - low};
}

float row_part(double step, int row, double start) {
  return static_cast<float>(step) * static_cast<float>(row) + static_cast<float>(start);
}

/// Where the pixels of a crop's row lie: start + step * i.
CLN_KERNEL void make_places(float start, float step, std::size_t count, float* places) {
  for (std::size_t i = 0; i < count; ++i) {
    places[i] = start + step * static_cast<float>(i);
  }
}

/// Offsets of a crop pixel's two neighbours in a line of the image.
struct Pair {
  std::uint32_t first, second;
  float weight;
};

CLN_KERNEL void to_floats(const std::uint8_t* bytes, std::size_t count, float* floats) {
  for (std::size_t i = 0; i < count; ++i) {
    floats[i] = static_cast<float>(bytes[i]);
  }
}

/// values[u, c] = between the two neighbours in a line of floats, which goes on for another four. Four channels at
/// once, so that it becomes one vector operation; the fourth is overwritten by the next pixel.
CLN_KERNEL void blend_across(const float* line, const Pair* pairs, std::size_t count, float* values) {
  for (std::size_t i = 0; i < count; ++i) {
    float a[4], b[4];
    std::memcpy(a, line + pairs[i].first, sizeof a);
    std::memcpy(b, line + pairs[i].second, sizeof b);
    for (std::size_t c = 0; c < 4; ++c) {
      a[c] += pairs[i].weight * (b[c] - a[c]);
    }
    std::memcpy(values + 3 * i, a, sizeof a);
  }
}

CLN_KERNEL void blend_down(const float* a, const float* b, float weight, std::size_t count, std::uint8_t* out) {
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = round_to_byte(a[i] + weight * (b[i] - a[i]));
  }
}

/// out[u, v] = image at (left + scale * u, top + scale * v), bilinear, edges replicated.
void warp(const ImageView& image, double scale, double left, double top, int size, std::uint8_t* out) {
  const auto pixels = static_cast<std::size_t>(size), channels = static_cast<std::size_t>(image.channels);
  std::vector<float> places(pixels);
  make_places(static_cast<float>(left), static_cast<float>(scale), pixels, places.data());
  const int first = make_tap(places.front(), image.width).first, last = make_tap(places.back(), image.width).second;
  std::vector<Pair> pairs(pixels);
  for (std::size_t u = 0; u < pixels; ++u) {
    const Tap tap = make_tap(places[u], image.width);
    const auto offset = [&](int x) {
      return static_cast<std::uint32_t>(static_cast<std::size_t>(x - first) * channels);
    };
    pairs[u] = {offset(tap.first), offset(tap.second), tap.weight};
  }
  const std::size_t span = static_cast<std::size_t>(last - first + 1) * channels;
  std::vector<float> floats(span + 4), values[2];
  values[0].resize(3 * pixels + 1);
  values[1].resize(3 * pixels + 1);
  int held[2] = {-1, -1};  // the image's rows that the two lines of values are of
  const auto hold = [&](std::size_t which, int row) {
    to_floats(image.data + row * image.stride + std::ptrdiff_t{first} * image.channels, span, floats.data());
    float* line = values[which].data();
    blend_across(floats.data(), pairs.data(), pixels, line);
    for (std::size_t u = channels == 1 ? pixels : 0; u-- > 0;) {
      line[3 * u + 1] = line[3 * u + 2] = line[3 * u];
    }
    held[which] = row;
  };
  for (int v = 0; v < size; ++v, out += 3 * pixels) {
    const Tap tap = make_tap(row_part(scale, v, top), image.height);
    if (tap.first == held[1]) {
      std::swap(values[0], values[1]);
      std::swap(held[0], held[1]);
    }
    if (tap.first != held[0]) {
      hold(0, tap.first);
    }
    if (tap.second != held[1]) {
      hold(1, tap.second);
    }
    blend_down(values[0].data(), values[1].data(), tap.weight, 3 * pixels, out);
  }
}

/// The affine map from a crop's pixels to an image's: (a, -b; b, a) and an offset.
struct Placement {
  double a, b, left, top;
};

Placement placement(const Roi& roi, int size) {
  const double scale = roi.side / size, turn = roi.angle * radians, reach = (size - 1) / 2.0;
  const double a = scale * std::cos(turn), b = scale * std::sin(turn);
  return {a, b, roi.center_x - (a - b) * reach, roi.center_y - (b + a) * reach};
}

/// Where a crop pixel's four neighbours lie, in bytes from the image's first, and how far from the first one.
struct Corner {
  std::ptrdiff_t above, below;  // of the left neighbours
  std::int32_t across;          // to the right ones
  float x, y;
};

CLN_KERNEL void blend_corners(const std::uint8_t* data, const Corner* corners, std::size_t count, bool grey,
                              std::uint8_t* out) {
  for (std::size_t i = 0; i < count; ++i) {
    const Corner& corner = corners[i];
    for (std::size_t c = 0; c < 3; ++c) {
      const std::uint8_t* above = data + corner.above + (grey ? 0 : c);
      const std::uint8_t* below = data + corner.below + (grey ? 0 : c);
      const int a = above[0], b = above[corner.across], d = below[0], e = below[corner.across];
      const float high = static_cast<float>(a) + corner.x * static_cast<float>(b - a);
      const float low = static_cast<float>(d) + corner.x * static_cast<float>(e - d);
      out[3 * i + c] = round_to_byte(high + corner.y * (low - high));
    }
  }
}

/// As warp, for a turned region.
void warp_turned(const ImageView& image, const Placement& at, int size, std::uint8_t* out) {
  const auto pixels = static_cast<std::size_t>(size);
  const auto last_x = static_cast<float>(image.width - 1), last_y = static_cast<float>(image.height - 1);
  std::vector<Corner> corners(pixels);
  std::vector<float> xs(pixels), ys(pixels);
  for (int v = 0; v < size; ++v, out += 3 * pixels) {
    make_places(row_part(-at.b, v, at.left), static_cast<float>(at.a), pixels, xs.data());
    make_places(row_part(at.a, v, at.top), static_cast<float>(at.b), pixels, ys.data());
    for (std::size_t u = 0; u < pixels; ++u) {
      // Beyond the edge, all taps are the edge's: the same as a point on it.
      const float x = std::clamp(xs[u], 0.0F, last_x), y = std::clamp(ys[u], 0.0F, last_y);
      const int column = static_cast<int>(x), row = static_cast<int>(y);
      const std::ptrdiff_t above = row * image.stride + std::ptrdiff_t{column} * image.channels;
      corners[u] = {above, row < image.height - 1 ? above + image.stride : above,
                    column < image.width - 1 ? image.channels : 0, x - static_cast<float>(column),
                    y - static_cast<float>(row)};
    }
    blend_corners(image.data, corners.data(), pixels, image.channels == 1, out);
  }
}

void warp(const ImageView& image, const Placement& at, int size, std::uint8_t* out) {
  if (at.b == 0 && at.a > 0) {
    warp(image, at.a, at.left, at.top, size, out);
  } else {
    warp_turned(image, at, size, out);
  }
}

/// The blocks that a region needs along one axis: indices first..last - 1.
struct Span {
  int first, last;
};

Span blocks_of(double center, double reach, int block, int length) {
  const int blocks = (length + block - 1) / block;
  // Two blocks of margin for the bilinear taps; one block must remain even where the region misses the image.
  const double low = std::floor((center - reach) / block) - 2;
  const double high = std::ceil((center + reach) / block) + 2;
  const int first = static_cast<int>(std::clamp(low, 0.0, static_cast<double>(blocks - 1)));
  const int last = static_cast<int>(std::clamp(high, static_cast<double>(first + 1), static_cast<double>(blocks)));
  return {first, last};
}

CLN_KERNEL void add_row(const std::uint8_t* row, std::size_t count, float* sums) {
  for (std::size_t i = 0; i < count; ++i) {
    sums[i] += static_cast<float>(row[i]);
  }
}

/// totals[b, c] = the sum of block b's `n` columns of channel c. Floats are exact here up to n = 256, near enough
/// after.
template <std::size_t Channels>
inline void add_columns(const float* sums, std::size_t blocks, std::size_t n, float* totals) {
  for (std::size_t b = 0; b < blocks; ++b) {
    float total[Channels] = {};
    for (std::size_t x = 0; x < n; ++x, sums += Channels) {
      for (std::size_t c = 0; c < Channels; ++c) {
        total[c] += sums[c];
      }
    }
    std::copy(total, total + Channels, totals + b * Channels);
  }
}

/// Means of n * n bytes, rounded as OpenCV does: halves up for 2 x 2, to even otherwise.
/// `totals` become the means before rounding: a product that is rounded itself, not in one with what rounds it.
CLN_KERNEL void block_means(float* totals, std::size_t count, int n, std::uint8_t* means) {
  const float weight = 1.0F / (static_cast<float>(n) * static_cast<float>(n));
  if (n == 2) {
    for (std::size_t i = 0; i < count; ++i) {
      means[i] = static_cast<std::uint8_t>(static_cast<int>((totals[i] + 2) * 0.25F));
    }
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      totals[i] *= weight;
    }
    for (std::size_t i = 0; i < count; ++i) {
      means[i] = round_to_byte(totals[i]);
    }
  }
}

/// Block means of the blocks (xs, ys): (ys, xs, channels). Blocks that stick out of the image see its edge replicated.
std::vector<std::uint8_t> average(const ImageView& image, int block, Span xs, Span ys) {
  const auto channels = static_cast<std::size_t>(image.channels);
  const auto width = static_cast<std::size_t>(xs.last - xs.first);
  const auto n = static_cast<std::size_t>(block);
  const int left = xs.first * block, right = std::min(xs.last * block, image.width);
  const std::size_t inside = static_cast<std::size_t>(right - left) * channels;
  std::vector<std::uint8_t> means(static_cast<std::size_t>(ys.last - ys.first) * width * channels);
  std::vector<float> sums(width * n * channels);
  std::vector<float> totals(width * channels);
  const auto add = channels == 1 ? add_columns<1> : channels == 3 ? add_columns<3> : add_columns<4>;
  for (int by = ys.first; by < ys.last; ++by) {
    std::fill(sums.begin(), sums.end(), 0.0F);
    for (int y = by * block; y < (by + 1) * block; ++y) {
      add_row(image.data + std::min(y, image.height - 1) * image.stride + std::ptrdiff_t{left} * image.channels, inside,
              sums.data());
    }
    for (std::size_t i = inside; i < sums.size(); ++i) {
      sums[i] = sums[i - channels];
    }
    add(sums.data(), width, n, totals.data());
    block_means(totals.data(), totals.size(), block,
                means.data() + static_cast<std::size_t>(by - ys.first) * totals.size());
  }
  return means;
}

void crop_one(const ImageView& image, const Roi& roi, int size, std::uint8_t* out) {
  const double scale = roi.side / size, turn = roi.angle * radians;
  const int shorter = std::min(image.width, image.height);
  const int block = scale > 2 ? static_cast<int>(std::min(std::floor(scale), static_cast<double>(shorter))) : 1;
  Placement at = placement(roi, size);
  if (block == 1) {
    warp(image, at, size, out);
    return;
  }
  const double reach = roi.side / 2 * (std::abs(std::cos(turn)) + std::abs(std::sin(turn)));
  const Span xs = blocks_of(roi.center_x, reach, block, image.width);
  const Span ys = blocks_of(roi.center_y, reach, block, image.height);
  const auto means = average(image, block, xs, ys);
  const int width = xs.last - xs.first, height = ys.last - ys.first;
  const ImageView averaged{means.data(), width, height, static_cast<std::ptrdiff_t>(width) * image.channels,
                           image.channels};
  at = {at.a / block, at.b / block, (at.left + 0.5) / block - 0.5 - xs.first, (at.top + 0.5) / block - 0.5 - ys.first};
  warp(averaged, at, size, out);
}

}  // namespace

Roi Roi::from_landmarks(const float* points, std::size_t count, double angle) {
  const double c = std::cos(angle * radians), s = std::sin(angle * radians);
  const double axes[2][2] = {{c, s}, {-s, c}};
  double low[2], high[2];
  std::fill_n(low, 2, std::numeric_limits<double>::infinity());
  std::fill_n(high, 2, -std::numeric_limits<double>::infinity());
  bool finite = count >= 2;
  for (std::size_t i = 0; i < count; ++i) {
    const double x = points[3 * i], y = points[3 * i + 1];
    finite = finite && std::isfinite(x) && std::isfinite(y);
    for (std::size_t k = 0; k < 2; ++k) {
      const double along = axes[k][0] * x + axes[k][1] * y;
      low[k] = std::min(low[k], along);
      high[k] = std::max(high[k], along);
    }
  }
  if (!finite) {
    detail::fail(ErrorCode::invalid_input, "landmarks: expected at least two finite points, got others");
  }
  const double middle[2] = {(low[0] + high[0]) / 2, (low[1] + high[1]) / 2};
  const Roi roi{c * middle[0] - s * middle[1], s * middle[0] + c * middle[1],
                std::max(high[0] - low[0], high[1] - low[1]) * std::sqrt(2.0), angle};
  check_roi(roi);
  return roi;
}

Roi Roi::from_box(const Box& box) {
  const bool finite = std::isfinite(box.x) && std::isfinite(box.y);
  if (!finite || !(box.width > 0) || !(box.height > 0)) {
    detail::fail(ErrorCode::invalid_input, "box: expected finite numbers with a width and height above 0, got " +
                                               std::to_string(box.width) + " x " + std::to_string(box.height) +
                                               "; drop empty boxes");
  }
  const Roi roi{box.x + box.width / 2, box.y + box.height / 2, std::max(box.width, box.height) * std::sqrt(2.0),
                box.angle};
  check_roi(roi);
  return roi;
}

void Roi::to_crop(const float* points, std::size_t count, int size, float* out) const {
  const Placement at = placement(*this, size);
  const double scale = side / size, square = scale * scale;
  for (std::size_t i = 0; i < 3 * count; i += 3) {
    const double x = points[i] - at.left, y = points[i + 1] - at.top;
    out[i] = static_cast<float>((at.a * x + at.b * y) / square);
    out[i + 1] = static_cast<float>((at.a * y - at.b * x) / square);
    out[i + 2] = static_cast<float>(points[i + 2] / scale);
  }
}

void Roi::to_image(const float* points, std::size_t count, int size, float* out) const {
  const Placement at = placement(*this, size);
  const double scale = side / size;
  for (std::size_t i = 0; i < 3 * count; i += 3) {
    const double u = points[i], v = points[i + 1];
    out[i] = static_cast<float>(at.a * u - at.b * v + at.left);
    out[i + 1] = static_cast<float>(at.b * u + at.a * v + at.top);
    out[i + 2] = static_cast<float>(points[i + 2] * scale);
  }
}

void check_roi(const Roi& roi) {
  const bool valid = std::abs(roi.center_x) < limit && std::abs(roi.center_y) < limit && roi.side < limit &&
                     std::abs(roi.angle) < limit;
  if (!valid || !(roi.side > 0)) {
    detail::fail(ErrorCode::invalid_input, "region: expected numbers below 1e9 and a side above 0, got centre (" +
                                               std::to_string(roi.center_x) + ", " + std::to_string(roi.center_y) +
                                               "), side " + std::to_string(roi.side) + " and angle " +
                                               std::to_string(roi.angle));
  }
}

void crop(const ImageView& image, const Roi* rois, std::size_t count, int size, std::uint8_t* out) {
  check_image(image);
  if (size < 1 || size > max_size) {
    detail::fail(ErrorCode::invalid_input,
                 "crop size: expected 1.." + std::to_string(max_size) + " pixels, got " + std::to_string(size));
  }
  std::for_each(rois, rois + count, check_roi);
  const std::size_t crop_bytes = static_cast<std::size_t>(size) * static_cast<std::size_t>(size) * 3;
  for (std::size_t i = 0; i < count; ++i) {
    crop_one(image, rois[i], size, out + i * crop_bytes);
  }
}

}  // namespace cln
