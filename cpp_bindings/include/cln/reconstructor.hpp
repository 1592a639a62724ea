// From an image and boxes to faces: crop, network, decoding. Points are in image pixels: x right, y down, z nearer.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "cln/engine.hpp"
#include "cln/face_model.hpp"
#include "cln/image.hpp"
#include "cln/pose.hpp"
#include "cln/roi.hpp"

namespace cln {

/// One reconstructed face. z counts in image pixels from the middle of the face; it is relative, not metric.
struct Face {
  Roi roi;
  int crop_size = 0;
  std::vector<float> params;     ///< (12 + S + E,), crop frame
  std::vector<float> landmarks;  ///< (68, 3) image pixels
  Pose pose;  ///< of the image, scale in its pixels per millimetre; the translation alone is in the crop's frame
};

/// The face of a region's crop, of `params` (model.num_params(),). Throws Error(invalid_input): no region or size.
Face make_face(const FaceModel& model, const Roi& roi, int crop_size, const float* params);

/// Reconstructs faces; several go through the network as one batch. One reconstructor belongs to one thread at a time;
/// several, in several threads, may share a face model.
class Reconstructor {
 public:
  /// Throws Error(mismatch): the engine was built for another face model; Error(invalid_input): a null pointer.
  Reconstructor(std::unique_ptr<Engine> engine, std::shared_ptr<const FaceModel> face_model);

  /// The faces in `boxes` or `rois`, in their order.
  /// Throws Error(invalid_input): no image, or a region of no area; Error(file_format): the engine gives NaN.
  std::vector<Face> reconstruct(const ImageView& image, const std::vector<Box>& boxes);
  std::vector<Face> reconstruct(const ImageView& image, const std::vector<Roi>& rois);

  /// `faces` of `image`, in their order, those seen again whose region was off by more than 5 % of its side (10 % in
  /// size, 8 degrees) from the one that they ask for: for boxes that a detector estimated. What both looks say is
  /// averaged; where the first region was off by 8 % (16 %, 20 degrees), the second look stands alone, and may ask for
  /// another, up to four looks in all. The engine runs once more for each round of looks, for those faces alone.
  /// Throws Error(invalid_input): no image, or a face of another reconstructor.
  std::vector<Face> look_again(const ImageView& image, std::vector<Face> faces);

  /// The face that params (num_params,) of a region's crop stand for. Throws Error(invalid_input): other params, or no
  /// region.
  [[nodiscard]] Face face(const std::vector<float>& params, const Roi& roi) const;

  /// The crops, uint8 (count, size, size, 3), of the last call of reconstruct.
  [[nodiscard]] const std::uint8_t* crops() const noexcept { return crops_.data(); }

  /// The dense mesh (N, 3) of a face in image pixels.
  [[nodiscard]] std::vector<float> vertices(const Face& face) const;

  [[nodiscard]] const FaceModel& face_model() const noexcept { return *face_model_; }
  [[nodiscard]] const Manifest& manifest() const noexcept { return engine_->manifest(); }

 private:
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<const FaceModel> face_model_;
  std::vector<std::uint8_t> crops_;  // kept, so that the next image needs no new memory
  std::vector<float> params_, landmarks_;
};

}  // namespace cln
