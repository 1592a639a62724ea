#include "cln/reconstructor.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "regions.hpp"
#include "text.hpp"

namespace cln {
namespace {

/// `landmarks` (68, 3) in the crop's frame.
Face face_of(const Roi& roi, int size, const float* params, std::size_t num_params, const float* landmarks) {
  Face face;
  face.roi = roi;
  face.crop_size = size;
  face.params.assign(params, params + num_params);
  face.landmarks.resize(landmark_count * 3);
  roi.to_image(landmarks, landmark_count, size, face.landmarks.data());
  face.pose = turned(decompose(params), roi.angle);
  face.pose.scale *= roi.side / size;
  return face;
}

}  // namespace

Face make_face(const FaceModel& model, const Roi& roi, int crop_size, const float* params) {
  check_roi(roi);
  if (crop_size < 1) {
    detail::fail(ErrorCode::invalid_input, "crop size: expected at least 1, got " + std::to_string(crop_size));
  }
  std::vector<float> landmarks(landmark_count * 3);
  model.landmarks(params, 1, landmarks.data());
  return face_of(roi, crop_size, params, model.num_params(), landmarks.data());
}

Reconstructor::Reconstructor(std::unique_ptr<Engine> engine, std::shared_ptr<const FaceModel> face_model)
    : engine_(std::move(engine)), face_model_(std::move(face_model)) {
  if (engine_ == nullptr || face_model_ == nullptr) {
    detail::fail(ErrorCode::invalid_input, "reconstructor: expected an engine and a face model, got none");
  }
  const Manifest& manifest = engine_->manifest();
  if (manifest.face_model_sha256 != face_model_->sha256() || manifest.num_params() != face_model_->num_params()) {
    detail::fail(ErrorCode::mismatch,
                 "engine: built for face model '" + manifest.face_model + "' (" +
                     manifest.face_model_sha256.substr(0, 12) + "), got '" + face_model_->name() + "' (" +
                     face_model_->sha256().substr(0, 12) +
                     "); pass the face model it was trained with, or an engine trained for this one");
  }
}

namespace {

// A box wholly outside has no face in it: it was made for another image, or another size of it.
void check_overlap(const ImageView& image, const std::vector<Box>& boxes) {
  check_image(image);
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const Box& box = boxes[i];
    const double turn = box.angle * std::acos(-1.0) / 180, c = std::abs(std::cos(turn)), s = std::abs(std::sin(turn));
    const double reach_x = (c * box.width + s * box.height) / 2, reach_y = (s * box.width + c * box.height) / 2;
    const double half_w = image.width / 2.0, half_h = image.height / 2.0;
    if (!(std::abs(box.x + box.width / 2 - half_w) < half_w + reach_x &&
          std::abs(box.y + box.height / 2 - half_h) < half_h + reach_y)) {
      detail::fail(ErrorCode::invalid_input,
                   "box " + std::to_string(i) + ": expected a box that overlaps the image of " +
                       std::to_string(image.width) + " x " + std::to_string(image.height) + " pixels, got x " +
                       std::to_string(box.x) + ", y " + std::to_string(box.y) +
                       "; was it made for this image, at this size?");
    }
  }
}

}  // namespace

std::vector<Face> Reconstructor::reconstruct(const ImageView& image, const std::vector<Box>& boxes) {
  std::vector<Roi> rois(boxes.size());
  std::transform(boxes.begin(), boxes.end(), rois.begin(), Roi::from_box);
  check_overlap(image, boxes);
  return reconstruct(image, rois);
}

std::vector<Face> Reconstructor::reconstruct(const ImageView& image, const std::vector<Roi>& rois) {
  const int size = manifest().input_size;
  const std::size_t count = rois.size(), side = static_cast<std::size_t>(size);
  const std::size_t num_params = face_model_->num_params(), points = landmark_count * 3;
  crops_.resize(count * side * side * 3);
  params_.resize(count * num_params);
  landmarks_.resize(count * points);
  crop(image, rois.data(), count, size, crops_.data());
  engine_->run(crops_.data(), count, params_.data());
  if (!std::all_of(params_.begin(), params_.end(), [](float value) { return std::isfinite(value); })) {
    detail::fail(ErrorCode::file_format,
                 "engine: expected finite params, got NaN or infinity; the engine file is damaged");
  }
  face_model_->landmarks(params_.data(), count, landmarks_.data());
  std::vector<Face> faces(count);
  for (std::size_t i = 0; i < count; ++i) {
    faces[i] = face_of(rois[i], size, params_.data() + i * num_params, num_params, landmarks_.data() + i * points);
  }
  return faces;
}

std::vector<Face> Reconstructor::look_again(const ImageView& image, std::vector<Face> faces) {
  // The constants of runtime/regions.py, where they are explained.
  constexpr double way = 0.05, turn = 8.0, far_way = 0.08, far_turn = 20.0;
  constexpr int looks = 4;
  check_image(image);
  std::vector<std::size_t> asked(faces.size());
  std::iota(asked.begin(), asked.end(), std::size_t{0});
  for (const Face& face : faces) {
    if (face.params.size() != face_model_->num_params() || face.crop_size != manifest().input_size) {
      detail::fail(ErrorCode::invalid_input, "face: expected one of this reconstructor's, got another");
    }
  }
  for (int look = 1; look < looks; ++look) {
    std::vector<Roi> better;
    std::vector<std::size_t> again, alone;
    for (const std::size_t i : asked) {
      const Roi own = detail::asked_roi(faces[i]);
      if (detail::is_off(faces[i].roi, own, way, turn)) {
        again.push_back(i);
        better.push_back(detail::on_grid(own));
      }
    }
    if (again.empty()) {
      break;
    }
    auto seen = reconstruct(image, better);
    for (std::size_t k = 0; k < again.size(); ++k) {
      Face& first = faces[again[k]];
      if (detail::is_off(first.roi, better[k], far_way, far_turn)) {
        alone.push_back(again[k]);
      } else {
        std::vector<float> mean = detail::moved(first.params, first.roi, better[k], first.crop_size);
        for (std::size_t i = 0; i < mean.size(); ++i) {
          mean[i] = (mean[i] + seen[k].params[i]) / 2;
        }
        seen[k] = face(mean, better[k]);
      }
      first = std::move(seen[k]);
    }
    asked = std::move(alone);
  }
  return faces;
}

Face Reconstructor::face(const std::vector<float>& params, const Roi& roi) const {
  if (params.size() != face_model_->num_params()) {
    detail::fail(ErrorCode::invalid_input, "params: expected " + std::to_string(face_model_->num_params()) +
                                               " numbers, got " + std::to_string(params.size()));
  }
  return make_face(*face_model_, roi, manifest().input_size, params.data());
}

std::vector<float> Reconstructor::vertices(const Face& face) const {
  if (face.params.size() != face_model_->num_params()) {
    detail::fail(ErrorCode::invalid_input, "face: expected one of this reconstructor's, got another");
  }
  std::vector<float> points(face_model_->vertex_count() * 3);
  face_model_->vertices(face.params.data(), 1, points.data());
  face.roi.to_image(points.data(), face_model_->vertex_count(), face.crop_size, points.data());
  return points;
}

}  // namespace cln
