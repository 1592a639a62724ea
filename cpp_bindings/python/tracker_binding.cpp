#include "tracker_binding.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "cln/cln.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Frame = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Params = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Found = nb::ndarray<const double, nb::shape<-1, 5>, nb::c_contig, nb::device::cpu>;
using Pixels = nb::ndarray<nb::numpy, const std::uint8_t>;

[[noreturn]] void refuse(const std::string& message) { throw cln::Error(cln::ErrorCode::invalid_input, message); }

/// An engine that asks a Python callable.
class CallableEngine : public cln::Engine {
 public:
  CallableEngine(cln::Manifest manifest, const nb::callable& run) : manifest_(std::move(manifest)), run_(run) {}

  [[nodiscard]] const cln::Manifest& manifest() const noexcept override { return manifest_; }

  void run(const std::uint8_t* crops, std::size_t batch, float* params) override {
    const auto side = static_cast<std::size_t>(manifest_.input_size);
    const auto answer = nb::cast<Params>(run_(Pixels(crops, {batch, side, side, 3})));
    if (answer.shape(0) != batch || answer.shape(1) != manifest_.num_params()) {
      refuse("engine: expected params float32 (" + std::to_string(batch) + ", " +
             std::to_string(manifest_.num_params()) + "), got another shape");
    }
    std::copy_n(answer.data(), batch * manifest_.num_params(), params);
  }

 private:
  cln::Manifest manifest_;
  const nb::callable& run_;
};

class BoundTracker {
 public:
  BoundTracker(const std::filesystem::path& face_model, const std::string& manifest, nb::callable engine,
               nb::callable detector, const cln::TrackerOptions& options)
      : engine_(std::move(engine)),
        detector_(std::move(detector)),
        reconstructor_(std::make_unique<CallableEngine>(
                           cln::parse_manifest(reinterpret_cast<const std::uint8_t*>(manifest.data()), manifest.size(),
                                               "manifest"),
                           engine_),
                       std::make_shared<const cln::FaceModel>(cln::FaceModel::load(face_model))),
        tracker_(
            reconstructor_,
            [this](const cln::ImageView& image, bool thorough) {
              const std::size_t height = static_cast<std::size_t>(image.height);
              const std::size_t width = static_cast<std::size_t>(image.width);
              const auto rows = nb::cast<Found>(detector_(Pixels(image.data, {height, width, 3}), thorough));
              std::vector<cln::Detection> found;
              for (std::size_t i = 0; i < rows.shape(0); ++i) {
                const double* row = rows.data() + 5 * i;
                found.push_back({{row[0], row[1], row[2], row[3]}, row[4]});
              }
              return found;
            },
            options) {}

  nb::list track(const Frame& frame, double seconds) {
    const auto height = static_cast<int>(frame.shape(0)), width = static_cast<int>(frame.shape(1));
    nb::list result;
    for (const auto& face : tracker_.track({frame.data(), width, height, std::ptrdiff_t{width} * 3, 3}, seconds)) {
      result.append(nb::make_tuple(face.id, face.age, face.score, array(face.face.params, 0),
                                   array(face.face.landmarks, 3), array(face.raw.landmarks, 3)));
    }
    return result;
  }

  void reset() { tracker_.reset(); }

  // Python's garbage collector asks for the two callables, which may hold this tracker.
  static int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (nb::inst_ready(self)) {
      const auto* tracker = nb::inst_ptr<BoundTracker>(self);
      Py_VISIT(tracker->engine_.ptr());
      Py_VISIT(tracker->detector_.ptr());
    }
    return 0;
  }
  static int clear(PyObject* self) {
    auto* tracker = nb::inst_ptr<BoundTracker>(self);
    tracker->engine_ = tracker->detector_ = nb::callable();
    return 0;
  }

 private:
  static nb::ndarray<nb::numpy, float> array(const std::vector<float>& values, std::size_t columns) {
    auto* data = new float[values.size()];
    std::copy(values.begin(), values.end(), data);
    const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    if (columns == 0) {
      return nb::ndarray<nb::numpy, float>(data, {values.size()}, owner);
    }
    return nb::ndarray<nb::numpy, float>(data, {values.size() / columns, columns}, owner);
  }

  nb::callable engine_, detector_;  // the engine's and the detector of the two below
  cln::Reconstructor reconstructor_;
  cln::Tracker tracker_;
};

}  // namespace

void bind_tracker(nb::module_& m) {
  static PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(BoundTracker::traverse)},
                                {Py_tp_clear, reinterpret_cast<void*>(BoundTracker::clear)},
                                {0, nullptr}};
  nb::class_<BoundTracker>(m, "Tracker", nb::type_slots(slots),
                           "cln::Tracker with an engine, `engine(crops) -> params`, and a detector, "
                           "`detector(image, thorough) -> float64 (N, 5)` rows of center_x, center_y, side, angle, "
                           "score, that are Python's.")
      .def(
          "__init__",
          [](BoundTracker* self, const std::filesystem::path& face_model, const std::string& manifest,
             nb::callable engine, nb::callable detector, int max_faces, int smoothing, double patience) {
            if (smoothing < 0 || smoothing > 2) {
              refuse("smoothing: expected 0 (off), 1 (still) or 2 (responsive), got " + std::to_string(smoothing));
            }
            new (self) BoundTracker(face_model, manifest, std::move(engine), std::move(detector),
                                    {max_faces, static_cast<cln::Smoothing>(smoothing), patience});
          },
          "face_model"_a, "manifest"_a, "engine"_a, "detector"_a, "max_faces"_a = cln::TrackerOptions{}.max_faces,
          "smoothing"_a = static_cast<int>(cln::TrackerOptions{}.smoothing),
          "patience"_a = cln::TrackerOptions{}.patience)
      .def("track", &BoundTracker::track, "frame"_a, "seconds"_a,
           "Faces of the next frame, uint8 (H, W, 3) BGR, as tuples: id, age, score, params, landmarks (68, 3), raw "
           "landmarks.")
      .def("reset", &BoundTracker::reset, "Forgets all faces and the time.");
}
