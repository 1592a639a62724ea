#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <vector>

#include "cln/cln.h"
#include "cln/cln.hpp"

struct cln_face_model {
  std::shared_ptr<const cln::FaceModel> model;
};

struct cln_reconstructor {
  cln::Reconstructor reconstructor;
};

struct cln_one_euro {
  cln::OneEuroFilter filter;
};

struct cln_tracker {
  cln::Tracker tracker;
};

namespace {

cln_status report(cln_status status, const char* message, cln_error* error) noexcept {
  if (error != nullptr) {
    std::strncpy(error->message, message, sizeof error->message - 1);
    error->message[sizeof error->message - 1] = '\0';
  }
  return status;
}

/// Runs `body` and turns what it throws into a status and a message.
template <typename Body>
cln_status guard(cln_error* error, Body body) noexcept {
  try {
    body();
    return report(CLN_OK, "", error);
  } catch (const cln::Error& e) {
    return report(static_cast<cln_status>(e.code()), e.what(), error);
  } catch (const std::bad_alloc&) {
    return report(CLN_INTERNAL, "out of memory", error);
  } catch (const std::exception& e) {
    return report(CLN_INTERNAL, e.what(), error);
  } catch (...) {
    return report(CLN_INTERNAL, "unknown error", error);
  }
}

template <typename T>
T& require(T* pointer, const char* name) {
  if (pointer == nullptr) {
    throw cln::Error(cln::ErrorCode::invalid_input, std::string(name) + ": expected a pointer, got NULL");
  }
  return *pointer;
}

cln::ImageView view(const cln_image& image) {
  return {image.data, image.width, image.height, image.stride, image.channels};
}

cln::Box box(const cln_box& b) { return {b.x, b.y, b.width, b.height, b.angle}; }

cln_pose pose(const cln::Pose& p) {
  cln_pose result{p.yaw, p.pitch, p.roll, {}, p.scale};
  std::copy(p.rotation.begin(), p.rotation.end(), result.rotation);
  return result;
}

/// Copies `values` to place `i` of an array of the caller's, where there is one.
void store(const std::vector<float>& values, std::size_t i, float* out) {
  if (out != nullptr) {
    std::copy(values.begin(), values.end(), out + i * values.size());
  }
}

std::vector<cln::Box> given(const cln_box* boxes, size_t count) {
  std::vector<cln::Box> result;
  for (size_t i = 0; i < count; ++i) {
    result.push_back(box((&require(boxes, "boxes"))[i]));
  }
  return result;
}

/// Copies faces to the caller's arrays, where there are any.
void store(const cln::Reconstructor& reconstruct, const std::vector<cln::Face>& faces, float* landmarks,
           float* vertices, cln_pose* poses, float* params) {
  for (size_t i = 0; i < faces.size(); ++i) {
    store(faces[i].landmarks, i, landmarks);
    store(faces[i].params, i, params);
    if (vertices != nullptr) {
      store(reconstruct.vertices(faces[i]), i, vertices);
    }
    if (poses != nullptr) {
      poses[i] = pose(faces[i].pose);
    }
  }
}

}  // namespace

const char* cln_version(void) { return CLN_VERSION; }

cln_status cln_roi_from_box(const cln_box* given, cln_roi* roi, cln_error* error) {
  return guard(error, [=] {
    const cln::Roi result = cln::Roi::from_box(box(require(given, "box")));
    require(roi, "roi") = {result.center_x, result.center_y, result.side, result.angle};
  });
}

cln_status cln_crop(const cln_image* image, const cln_roi* rois, size_t count, int32_t size, uint8_t* out,
                    cln_error* error) {
  return guard(error, [=] {
    std::vector<cln::Roi> regions;
    for (size_t i = 0; i < count; ++i) {
      const cln_roi& roi = (&require(rois, "rois"))[i];
      regions.push_back({roi.center_x, roi.center_y, roi.side, roi.angle});
    }
    cln::crop(view(require(image, "image")), regions.data(), count, size, count > 0 ? &require(out, "out") : out);
  });
}

cln_status cln_face_model_load(const char* path, cln_face_model** model, cln_error* error) {
  return guard(error, [=] {
    cln_face_model*& result = require(model, "model");
    result = nullptr;
    const char& file = require(path, "path");
    result = new cln_face_model{std::make_shared<const cln::FaceModel>(cln::FaceModel::load(&file))};
  });
}

void cln_face_model_free(cln_face_model* model) { delete model; }

size_t cln_face_model_num_params(const cln_face_model* model) {
  return model != nullptr ? model->model->num_params() : 0;
}

size_t cln_face_model_vertex_count(const cln_face_model* model) {
  return model != nullptr ? model->model->vertex_count() : 0;
}

size_t cln_face_model_triangle_count(const cln_face_model* model) {
  return model != nullptr ? model->model->triangles().size() / 3 : 0;
}

const int32_t* cln_face_model_triangles(const cln_face_model* model) {
  return model != nullptr ? model->model->triangles().data() : nullptr;
}

cln_status cln_face_model_landmarks(const cln_face_model* model, const float* params, size_t batch, float* out,
                                    cln_error* error) {
  return guard(error, [=] {
    require(model, "model").model->landmarks(&require(params, "params"), batch, &require(out, "out"));
  });
}

cln_status cln_face_model_vertices(const cln_face_model* model, const float* params, size_t batch, float* out,
                                   cln_error* error) {
  return guard(
      error, [=] { require(model, "model").model->vertices(&require(params, "params"), batch, &require(out, "out")); });
}

cln_status cln_reconstructor_create(const char* engine, const cln_face_model* model, int32_t threads,
                                    cln_reconstructor** reconstructor, cln_error* error) {
  return guard(error, [=] {
    cln_reconstructor*& result = require(reconstructor, "reconstructor");
    result = nullptr;
    const auto& face_model = require(model, "model").model;
    const char& file = require(engine, "engine");
    result = new cln_reconstructor{cln::Reconstructor(cln::load_engine(&file, {threads}), face_model)};
  });
}

void cln_reconstructor_free(cln_reconstructor* reconstructor) { delete reconstructor; }

cln_status cln_reconstruct(cln_reconstructor* reconstructor, const cln_image* image, const cln_box* boxes, size_t count,
                           float* landmarks, float* vertices, cln_pose* poses, float* params, cln_error* error) {
  return guard(error, [=] {
    auto& reconstruct = require(reconstructor, "reconstructor").reconstructor;
    const auto faces = reconstruct.reconstruct(view(require(image, "image")), given(boxes, count));
    store(reconstruct, faces, landmarks, vertices, poses, params);
  });
}

cln_status cln_reconstruct_detected(cln_reconstructor* reconstructor, const cln_image* image, const cln_box* boxes,
                                    size_t count, float* landmarks, float* vertices, cln_pose* poses, float* params,
                                    cln_error* error) {
  return guard(error, [=] {
    auto& reconstruct = require(reconstructor, "reconstructor").reconstructor;
    const auto picture = view(require(image, "image"));
    const auto faces = reconstruct.look_again(picture, reconstruct.reconstruct(picture, given(boxes, count)));
    store(reconstruct, faces, landmarks, vertices, poses, params);
  });
}

cln_status cln_one_euro_create(size_t count, double min_cutoff, double beta, double derivative_cutoff,
                               cln_one_euro** filter, cln_error* error) {
  return guard(error, [=] {
    cln_one_euro*& result = require(filter, "filter");
    result = nullptr;
    result = new cln_one_euro{cln::OneEuroFilter(count, {min_cutoff, beta, derivative_cutoff})};
  });
}

void cln_one_euro_free(cln_one_euro* filter) { delete filter; }

cln_status cln_one_euro_filter(cln_one_euro* filter, double seconds, float* values, cln_error* error) {
  return guard(error, [=] {
    float* data = &require(values, "values");
    require(filter, "filter").filter.filter(seconds, data, data);
  });
}

cln_status cln_tracker_create(cln_reconstructor* reconstructor, cln_detector detector, void* user, int32_t max_faces,
                              cln_smoothing smoothing, double patience, cln_tracker** tracker, cln_error* error) {
  return guard(error, [=] {
    cln_tracker*& result = require(tracker, "tracker");
    result = nullptr;
    auto& reconstruct = require(reconstructor, "reconstructor").reconstructor;
    if (detector == nullptr || smoothing < CLN_SMOOTHING_OFF || smoothing > CLN_SMOOTHING_RESPONSIVE) {
      throw cln::Error(cln::ErrorCode::invalid_input, "tracker: expected a detector and one of the smoothings");
    }
    const auto detect = [detector, user](const cln::ImageView& view, bool thorough) {
      constexpr std::size_t capacity = 64;
      const cln_image image{view.data, view.width, view.height, view.stride, view.channels};
      std::vector<cln_detection> found(capacity);
      const std::size_t count = detector(&image, thorough ? 1 : 0, found.data(), capacity, user);
      std::vector<cln::Detection> result_of_it;
      for (std::size_t i = 0; i < count && i < capacity; ++i) {
        const cln_roi& roi = found[i].roi;
        result_of_it.push_back({{roi.center_x, roi.center_y, roi.side, roi.angle}, found[i].score});
        cln::check_roi(result_of_it.back().roi);
      }
      return result_of_it;
    };
    const cln::TrackerOptions options{max_faces, static_cast<cln::Smoothing>(smoothing), patience};
    result = new cln_tracker{cln::Tracker(reconstruct, detect, options)};
  });
}

void cln_tracker_free(cln_tracker* tracker) { delete tracker; }

void cln_tracker_reset(cln_tracker* tracker) {
  if (tracker != nullptr) {
    tracker->tracker.reset();
  }
}

cln_status cln_tracker_track(cln_tracker* tracker, const cln_image* image, double seconds, size_t* count, int32_t* ids,
                             float* landmarks, cln_pose* poses, float* params, cln_error* error) {
  return guard(error, [=] {
    auto& number = require(count, "count");
    number = 0;
    const auto faces = require(tracker, "tracker").tracker.track(view(require(image, "image")), seconds);
    for (const auto& face : faces) {
      if (ids != nullptr) {
        ids[number] = face.id;
      }
      store(face.face.landmarks, number, landmarks);
      store(face.face.params, number, params);
      if (poses != nullptr) {
        poses[number] = pose(face.face.pose);
      }
      ++number;
    }
  });
}
