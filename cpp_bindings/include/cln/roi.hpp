// The square region of a face, the crop that is cut from it, and the exact way back.
//
// Points in images and crops alike: the centre of the top-left pixel is (0, 0), x right, y down. A region of centre
// c, side d and angle a and its crop of S pixels cover the same area; for a point x of the image and u of the crop
//
//     x = c + R(a) * (u - (S - 1) / 2) * d / S,    R(a) = [[cos a, -sin a], [sin a, cos a]]        (z scales by d / S)
//
// so that the region's own x axis is turned by a against the image's, clockwise as seen.
// Resampling is bilinear with edge pixels replicated. Where the region is more than twice as large as the crop, the
// image is first averaged over blocks of n x n pixels, n = floor(d / S), on a grid anchored at the image's top-left
// corner. The arithmetic is that of the Python runtime (runtime/roi.py), to within 1 grey level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cln/image.hpp"

namespace cln {

/// A box in image pixels, tight around brows, chin and cheeks; turned about its middle by degrees clockwise.
struct Box {
  double x = 0, y = 0, width = 0, height = 0, angle = 0;
};

/// A square region of interest in image pixels: centre, side, and turn in degrees, clockwise as seen.
struct Roi {
  double center_x = 0, center_y = 0, side = 0, angle = 0;

  /// The middle of the landmarks' bounding box, and sqrt(2) times its longer side (3DDFA's rule); the box's sides, and
  /// the region, are turned by `angle`. `points`: (count, 3) image pixels, count >= 2; z is not used.
  /// Throws Error(invalid_input).
  static Roi from_landmarks(const float* points, std::size_t count, double angle = 0);

  /// The same rule for a tight face box. Throws Error(invalid_input): not finite, or no area.
  static Roi from_box(const Box& box);

  /// Image points (count, 3) in the frame of this region's crop of `size` pixels; `out` may be `points`.
  void to_crop(const float* points, std::size_t count, int size, float* out) const;

  /// The inverse of to_crop.
  void to_image(const float* points, std::size_t count, int size, float* out) const;
};

/// Throws Error(invalid_input) where a number is not finite or beyond 1e9, or the side is not above 0.
void check_roi(const Roi& roi);

/// Cuts `rois` from `image` into `out`, uint8 (count, size, size, 3), BGR. Grey and BGRA images are converted.
/// Throws Error(invalid_input): the image or a region is none (see check_image, check_roi), or size is not 1..32766.
void crop(const ImageView& image, const Roi* rois, std::size_t count, int size, std::uint8_t* out);

}  // namespace cln
