#include <algorithm>
#include <string>
#include <system_error>
#include <thread>

#include "cln/face_model.hpp"
#include "dispatch.hpp"
#include "text.hpp"

namespace cln {
namespace {

constexpr std::size_t tile = 64;  // points: a group's sums and some rows of the model stay in the first-level cache
constexpr std::size_t row = 3 * tile;
constexpr std::size_t group = 4;  // faces decoded at once: what is read of the model serves them all

/// sums (Faces, row) += four rows `a` of the model, weighted. Four faces and four modes at a time read and write least.
template <std::size_t Faces>
CLN_INLINE void add_modes(const float* a, const float* weights, std::size_t stride, float* sums) {
  float w[Faces][4];  // copied, so that the compiler knows them to stay as they are
  for (std::size_t f = 0; f < Faces; ++f) {
    std::copy(weights + f * stride, weights + f * stride + 4, w[f]);
  }
  for (std::size_t i = 0; i < row; ++i) {
    const float a0 = a[i], a1 = a[i + row], a2 = a[i + 2 * row], a3 = a[i + 3 * row];
    for (std::size_t f = 0; f < Faces; ++f) {
      sums[f * row + i] += (w[f][0] * a0 + w[f][1] * a1) + (w[f][2] * a2 + w[f][3] * a3);
    }
  }
}

/// One tile, rows (1 + modes, 3, tile) of the model, under the params (Faces, 12 + modes). Face f's points (count, 3)
/// go to out + f * step.
template <std::size_t Faces>
CLN_INLINE void decode_tile(const float* rows, std::size_t modes, const float* params, std::size_t count, float* out,
                            std::size_t step) {
  const std::size_t stride = pose_size + modes;
  alignas(64) float sums[Faces * row];
  for (std::size_t f = 0; f < Faces; ++f) {
    std::copy(rows, rows + row, sums + f * row);
  }
  std::size_t k = 0;
  for (; k + 4 <= modes; k += 4) {
    add_modes<Faces>(rows + (k + 1) * row, params + pose_size + k, stride, sums);
  }
  for (; k < modes; ++k) {
    for (std::size_t f = 0; f < Faces; ++f) {
      const float weight = params[f * stride + pose_size + k];
      for (std::size_t i = 0; i < row; ++i) {
        sums[f * row + i] += weight * rows[(k + 1) * row + i];
      }
    }
  }
  for (std::size_t f = 0; f < Faces; ++f) {
    const float* p = params + f * stride;
    const float* sum = sums + f * row;
    float points[row];
    for (std::size_t i = 0; i < tile; ++i) {
      const float x = sum[i], y = sum[i + tile], z = sum[i + 2 * tile];
      points[3 * i] = p[0] * x + p[1] * y + p[2] * z + p[3];
      points[3 * i + 1] = p[4] * x + p[5] * y + p[6] * z + p[7];
      points[3 * i + 2] = p[8] * x + p[9] * y + p[10] * z + p[11];
    }
    std::copy(points, points + 3 * count, out + f * step);
  }
}

CLN_KERNEL void decode_one(const float* rows, std::size_t modes, const float* params, std::size_t count, float* out) {
  decode_tile<1>(rows, modes, params, count, out, 0);
}

CLN_KERNEL void decode_group(const float* rows, std::size_t modes, const float* params, std::size_t count, float* out,
                             std::size_t step) {
  decode_tile<group>(rows, modes, params, count, out, step);
}

}  // namespace

Decoder::Decoder(const float* rows, std::size_t modes, std::size_t points) : modes_(modes), points_(points) {
  const std::size_t count = (points + tile - 1) / tile;
  tiles_.resize(count * (1 + modes) * row);  // zeros fill the last tile
  for (std::size_t k = 0; k <= modes; ++k) {
    for (std::size_t i = 0; i < points; ++i) {
      float* plane = tiles_.data() + ((i / tile) * (1 + modes) + k) * row + i % tile;
      for (std::size_t axis = 0; axis < 3; ++axis) {
        plane[axis * tile] = rows[(k * points + i) * 3 + axis];
      }
    }
  }
}

void Decoder::decode(const float* params, std::size_t batch, float* out, int threads) const {
  if (threads < 1) {
    detail::fail(ErrorCode::invalid_input, "threads: expected at least 1, got " + std::to_string(threads));
  }
  const std::size_t tiles = (points_ + tile - 1) / tile;
  const auto work = [this, params, batch, out](std::size_t first, std::size_t last) {
    for (std::size_t t = first; t < last; ++t) {  // tiles outside, faces inside: a tile is read from memory once
      const float* rows = tiles_.data() + t * (1 + modes_) * row;
      const std::size_t count = std::min(tile, points_ - t * tile);
      std::size_t b = 0;
      const auto place = [&b, t, out, this] { return out + (b * points_ + t * tile) * 3; };
      for (; b + group <= batch; b += group) {
        decode_group(rows, modes_, params + b * num_params(), count, place(), points_ * 3);
      }
      for (; b < batch; ++b) {
        decode_one(rows, modes_, params + b * num_params(), count, place());
      }
    }
  };
  const std::size_t parts = std::max<std::size_t>(1, std::min(static_cast<std::size_t>(threads), tiles));
  std::vector<std::thread> others;
  others.reserve(parts - 1);
  try {
    for (std::size_t i = 1; i < parts; ++i) {
      others.emplace_back(work, tiles * i / parts, tiles * (i + 1) / parts);
    }
  } catch (const std::system_error&) {
    // No more threads to be had: what is left is done below.
  }
  work(0, tiles / parts);
  work(tiles * (others.size() + 1) / parts, tiles);  // nothing, where all threads came to be
  for (std::thread& thread : others) {
    thread.join();
  }
}

}  // namespace cln
