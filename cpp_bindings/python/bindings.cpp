// The Python module cln_cpp._core: thin wrappers that check shapes, release the GIL, and hand out arrays uncopied.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cln/cln.hpp"
#include "tracker_binding.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Pixels = nb::ndarray<const std::uint8_t, nb::device::cpu, nb::ro>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rois = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

[[noreturn]] void refuse(const std::string& message) { throw cln::Error(cln::ErrorCode::invalid_input, message); }

/// A new array that owns `data`.
template <typename T>
nb::ndarray<nb::numpy, T> own(std::unique_ptr<T[]> data, std::initializer_list<std::size_t> shape) {
  T* pointer = data.get();
  const nb::capsule owner(pointer, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  data.release();
  return nb::ndarray<nb::numpy, T>(pointer, shape, owner);
}

/// A read-only array over memory of `owner`'s, which it keeps alive.
template <typename T>
nb::ndarray<nb::numpy, const T> borrow(const std::vector<T>& data, std::initializer_list<std::size_t> shape,
                                       nb::handle owner) {
  return nb::ndarray<nb::numpy, const T>(data.data(), shape, owner);
}

/// A view of the array where its rows are contiguous; else of a copy, kept in `kept`.
cln::ImageView view(const Pixels& image, std::vector<std::uint8_t>& kept) {
  const bool grey = image.ndim() == 2;
  if (!grey && image.ndim() != 3) {
    refuse("image: expected uint8 of shape (H, W), (H, W, 3) or (H, W, 4), got " + std::to_string(image.ndim()) +
           " axes");
  }
  const std::size_t height = image.shape(0), width = image.shape(1), channels = grey ? 1 : image.shape(2);
  if (height > 32766 || width > 32766 || channels > 4) {
    refuse("image: expected sides of 1..32766 pixels and 1, 3 or 4 channels, got others");
  }
  cln::ImageView result{image.data(), static_cast<int>(width), static_cast<int>(height),
                        static_cast<std::ptrdiff_t>(image.stride(0)), static_cast<int>(channels)};
  const auto across = static_cast<std::ptrdiff_t>(channels);
  const std::int64_t step = grey ? 1 : image.stride(2);
  const auto row = static_cast<std::int64_t>(width) * across;
  const bool apart = height == 1 || std::abs(image.stride(0)) >= row;  // NumPy may repeat rows, or let them overlap
  if (apart && (image.stride(1) == across || width == 1) && (step == 1 || channels == 1)) {
    if (height == 1) {
      result.stride = static_cast<std::ptrdiff_t>(row);  // NumPy leaves the stride of a single row open
    }
    return result;
  }
  kept.reserve(height * width * channels);
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = 0; x < width; ++x) {
      const std::uint8_t* pixel = image.data() + static_cast<std::int64_t>(y) * image.stride(0) +
                                  static_cast<std::int64_t>(x) * image.stride(1);
      for (std::size_t c = 0; c < channels; ++c) {
        kept.push_back(pixel[static_cast<std::int64_t>(c) * step]);
      }
    }
  }
  result.data = kept.data();
  result.stride = static_cast<std::ptrdiff_t>(row);
  return result;
}

nb::ndarray<nb::numpy, std::uint8_t> crop(const Pixels& image, const Rois& rois, int size) {
  if (size < 1) {
    refuse("crop size: expected at least 1 pixel, got " + std::to_string(size));
  }
  const std::size_t numbers = rois.shape(1);
  if (numbers != 3 && numbers != 4) {
    refuse("rois: expected rows of 3 or 4 numbers, got " + std::to_string(numbers));
  }
  const std::size_t count = rois.shape(0), side = static_cast<std::size_t>(size);
  std::unique_ptr<std::uint8_t[]> out(new std::uint8_t[count * side * side * 3]);
  {
    const nb::gil_scoped_release unlocked;
    std::vector<std::uint8_t> kept;
    std::vector<cln::Roi> regions;
    for (std::size_t i = 0; i < count; ++i) {
      const double* row = rois.data() + numbers * i;
      regions.push_back({row[0], row[1], row[2], numbers == 4 ? row[3] : 0.0});
    }
    cln::crop(view(image, kept), regions.data(), count, size, out.get());
  }
  return own(std::move(out), {count, side, side, 3});
}

/// Points (B, points, 3) of params (B, num_params), by `decode(params, batch, out)`.
template <typename Decode>
nb::ndarray<nb::numpy, float> points_of(const Rows& params, std::size_t num_params, std::size_t points, Decode decode) {
  if (params.shape(1) != num_params) {
    refuse("params: expected float32 of shape (B, " + std::to_string(num_params) + "), got (" +
           std::to_string(params.shape(0)) + ", " + std::to_string(params.shape(1)) + ")");
  }
  const std::size_t batch = params.shape(0);
  std::unique_ptr<float[]> out(new float[batch * points * 3]);
  {
    const nb::gil_scoped_release unlocked;
    decode(params.data(), batch, out.get());
  }
  return own(std::move(out), {batch, points, 3});
}

cln::Decoder make_decoder(const Rows& rows) {
  if (rows.shape(0) < 1 || rows.shape(1) % 3 != 0) {
    refuse("rows: expected float32 of shape (1 + modes, points * 3), got (" + std::to_string(rows.shape(0)) + ", " +
           std::to_string(rows.shape(1)) + ")");
  }
  return cln::Decoder(rows.data(), rows.shape(0) - 1, rows.shape(1) / 3);
}

void raise(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const cln::Error& error) {
    PyObject* kind = error.code() == cln::ErrorCode::file_not_found       ? PyExc_FileNotFoundError
                     : error.code() == cln::ErrorCode::engine_unavailable ? PyExc_RuntimeError
                                                                          : PyExc_ValueError;
    PyErr_SetString(kind, error.what());
  }
}

using Points = nb::ndarray<const float, nb::shape<-1, -1>, nb::c_contig, nb::device::cpu>;
using Vertices = nb::ndarray<const float, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Triangles = nb::ndarray<const std::int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void check_corners(const Triangles& triangles, const Vertices& vertices) {
  const std::int32_t* first = triangles.data();
  const std::int32_t* last = first + 3 * triangles.shape(0);
  const auto count = static_cast<std::int64_t>(vertices.shape(0));
  if (std::any_of(first, last, [count](std::int32_t i) { return i < 0 || i >= count; })) {
    refuse("triangles: expected numbers of vertices, 0.." + std::to_string(count - 1) + ", got others");
  }
}

nb::tuple rasterize(const Vertices& vertices, const Triangles& triangles, int height, int width) {
  if (height < 1 || width < 1 || height > 32766 || width > 32766) {
    refuse("raster: expected sides of 1..32766 pixels, got " + std::to_string(width) + " x " + std::to_string(height));
  }
  check_corners(triangles, vertices);
  const std::size_t h = static_cast<std::size_t>(height), w = static_cast<std::size_t>(width);
  std::unique_ptr<std::int32_t[]> number(new std::int32_t[h * w]);
  std::unique_ptr<float[]> depth(new float[h * w]);
  {
    const nb::gil_scoped_release unlocked;
    cln::rasterize(vertices.data(), triangles.data(), triangles.shape(0), width, height, number.get(), depth.get());
  }
  return nb::make_tuple(own(std::move(number), {h, w}), own(std::move(depth), {h, w}));
}

nb::ndarray<nb::numpy, float> interpolate(const Vertices& vertices, const Triangles& triangles, const Numbers& number,
                                          const Points& values, bool unit) {
  check_corners(triangles, vertices);
  const std::size_t h = number.shape(0), w = number.shape(1), channels = values.shape(1);
  const auto count = static_cast<std::int64_t>(triangles.shape(0));
  if (values.shape(0) != vertices.shape(0) ||
      std::any_of(number.data(), number.data() + h * w, [count](std::int32_t i) { return i >= count; })) {
    refuse("interpolate: expected values of every vertex and numbers of triangles, got others");
  }
  std::unique_ptr<float[]> out(new float[h * w * channels]);
  {
    const nb::gil_scoped_release unlocked;
    cln::interpolate(vertices.data(), triangles.data(), number.data(), static_cast<int>(w), static_cast<int>(h),
                     values.data(), channels, out.get(), unit);
  }
  return own(std::move(out), {h, w, channels});
}

void bind_rasterizer(nb::module_& m) {
  m.def("rasterize", &rasterize, "vertices"_a, "triangles"_a, "height"_a, "width"_a,
        "Triangle numbers int32 (H, W), -1 for none, and z float32 (H, W), -infinity for none; bigger z is nearer.");
  m.def("interpolate", &interpolate, "vertices"_a, "triangles"_a, "number"_a, "values"_a, "unit"_a = false,
        "Values of the vertices (N, C) at each pixel of `number`: float32 (H, W, C), 0 where it is -1; `unit` scales "
        "those of each pixel to length 1.");
  m.def(
      "vertex_normals",
      [](const Vertices& vertices, const Triangles& triangles) {
        check_corners(triangles, vertices);
        std::unique_ptr<float[]> out(new float[3 * vertices.shape(0)]);
        cln::vertex_normals(vertices.data(), vertices.shape(0), triangles.data(), triangles.shape(0), out.get());
        return own(std::move(out), {vertices.shape(0), 3});
      },
      "vertices"_a, "triangles"_a, "Unit normals float32 (N, 3), out of a mesh whose y points down.");
  m.def(
      "surface_depth",
      [](const Points& points, const Vertices& vertices, const Triangles& triangles) {
        check_corners(triangles, vertices);
        if (points.shape(1) < 2) {
          refuse("points: expected float32 of shape (K, 2 or 3), got " + std::to_string(points.shape(1)) + " columns");
        }
        std::unique_ptr<float[]> out(new float[points.shape(0)]);
        {
          const nb::gil_scoped_release unlocked;
          cln::surface_depth(points.data(), points.shape(0), points.shape(1), vertices.data(), triangles.data(),
                             triangles.shape(0), out.get());
        }
        return own(std::move(out), {points.shape(0)});
      },
      "points"_a, "vertices"_a, "triangles"_a,
      "The z (K,) of the nearest surface over each point (K, 2 or more), -infinity where there is none.");
}

using Place = nb::ndarray<const double, nb::shape<4>, nb::c_contig, nb::device::cpu>;

cln::Face face_of(const cln::FaceModel& model, const Values& params, const Place& roi, int size) {
  if (params.shape(0) != model.num_params()) {
    refuse("params: expected float32 of shape (" + std::to_string(model.num_params()) + ",), got (" +
           std::to_string(params.shape(0)) + ",)");
  }
  const double* p = roi.data();
  return cln::make_face(model, {p[0], p[1], p[2], p[3]}, size, params.data());
}

nb::ndarray<nb::numpy, bool> flags(const std::vector<std::uint8_t>& values) {
  std::unique_ptr<bool[]> out(new bool[values.size()]);
  std::transform(values.begin(), values.end(), out.get(), [](std::uint8_t v) { return v != 0; });
  return own(std::move(out), {values.size()});
}

void bind_camera(nb::module_& m) {
  m.def(
      "visibility",
      [](const cln::FaceModel& model, const Values& params, const Place& roi, int size) {
        const cln::Face face = face_of(model, params, roi, size);
        return nb::make_tuple(flags(cln::visible_landmarks(model, face)), flags(cln::visible_vertices(model, face)));
      },
      "face_model"_a, "params"_a, "roi"_a, "crop_size"_a,
      "Which landmarks, bool (68,), and vertices (N,) a face does not hide itself; `roi`: x, y, side, angle.");
  m.def(
      "metric_pose",
      [](const cln::FaceModel& model, const Values& params, const Place& roi, int size, const Place& camera,
         double pupil_distance) {
        const double* c = camera.data();
        const cln::MetricPose pose =
            cln::metric_pose(model, face_of(model, params, roi, size), {c[0], c[1], c[2], c[3]}, pupil_distance);
        std::unique_ptr<double[]> rotation(new double[9]), translation(new double[3]);
        std::copy(pose.rotation.begin(), pose.rotation.end(), rotation.get());
        std::copy(pose.translation.begin(), pose.translation.end(), translation.get());
        return nb::make_tuple(own(std::move(rotation), {3, 3}), own(std::move(translation), {3}), pose.scale,
                              pose.error);
      },
      "face_model"_a, "params"_a, "roi"_a, "crop_size"_a, "camera"_a, "pupil_distance"_a = 0.0,
      "Rotation (3, 3), translation (3,) in mm, scale and error in pixels; `camera`: fx, fy, cx, cy.");
}

void bind_face_model(nb::module_& m) {
  using cln::FaceModel;
  nb::class_<FaceModel>(m, "FaceModel", "A 3DMM with N vertices and T triangles, read from a face-model file.")
      .def(
          "__init__",
          [](FaceModel* self, const std::filesystem::path& path) { new (self) FaceModel(FaceModel::load(path)); },
          "path"_a, "Raises FileNotFoundError, or ValueError where the file is damaged or no face model.")
      .def_prop_ro("name", &FaceModel::name)
      .def_prop_ro("license", &FaceModel::license)
      .def_prop_ro("sha256", &FaceModel::sha256)
      .def_prop_ro("num_params", &FaceModel::num_params)
      .def_prop_ro(
          "mean",
          [](nb::handle_t<FaceModel> self) {
            const auto& model = nb::cast<const FaceModel&>(self);
            return borrow(model.mean(), {model.vertex_count(), 3}, self);
          },
          "float32 (N, 3), millimetres; read-only.")
      .def_prop_ro(
          "triangles",
          [](nb::handle_t<FaceModel> self) {
            const auto& model = nb::cast<const FaceModel&>(self);
            return borrow(model.triangles(), {model.triangles().size() / 3, 3}, self);
          },
          "int32 (T, 3), counter-clockwise seen from outside; read-only.")
      .def(
          "landmarks",
          [](const FaceModel& self, const Rows& params) {
            return points_of(params, self.num_params(), cln::landmark_count,
                             [&self](const float* p, std::size_t n, float* out) { self.landmarks(p, n, out); });
          },
          "params"_a, "Landmarks (B, 68, 3) in the crop's frame, of params float32 (B, 12 + S + E).")
      .def(
          "vertices",
          [](const FaceModel& self, const Rows& params, int threads) {
            return points_of(
                params, self.num_params(), self.vertex_count(),
                [&self, threads](const float* p, std::size_t n, float* out) { self.vertices(p, n, out, threads); });
          },
          "params"_a, "threads"_a = 1, "Vertices (B, N, 3) in the crop's frame, of params float32 (B, 12 + S + E).");
}

}  // namespace

NB_MODULE(_core, m) {
  nb::register_exception_translator(raise);
  m.def("crop", &crop, "image"_a.noconvert(), "rois"_a, "size"_a,
        "Cuts regions, rows (center_x, center_y, side[, angle]) of float64 (B, 3 or 4), from an image into uint8 "
        "(B, size, size, 3), BGR.\n\n"
        "Raises ValueError where the image, a region or the size is none.");
  nb::class_<cln::Decoder>(m, "Decoder",
                           "Turns params into points, for rows float32 (1 + modes, points * 3): mean and modes.")
      .def(
          "__init__", [](cln::Decoder* self, const Rows& rows) { new (self) cln::Decoder(make_decoder(rows)); },
          "rows"_a)
      .def(
          "decode",
          [](const cln::Decoder& self, const Rows& params, int threads) {
            return points_of(
                params, self.num_params(), self.points(),
                [&self, threads](const float* p, std::size_t n, float* out) { self.decode(p, n, out, threads); });
          },
          "params"_a, "threads"_a = 1, "Points (B, points, 3) of params float32 (B, 12 + modes).");
  bind_face_model(m);
  bind_rasterizer(m);
  bind_camera(m);
  bind_tracker(m);
  nb::class_<cln::OneEuroFilter>(m, "OneEuroFilter", "The One Euro filter (Casiez et al. 2012) of `count` values.")
      .def(
          "__init__",
          [](cln::OneEuroFilter* self, std::size_t count, double min_cutoff, double beta, double derivative_cutoff) {
            new (self) cln::OneEuroFilter(count, {min_cutoff, beta, derivative_cutoff});
          },
          "count"_a, "min_cutoff"_a = 1.0, "beta"_a = 0.0, "derivative_cutoff"_a = 1.0, "Frequencies in Hz.")
      .def(
          "filter",
          [](cln::OneEuroFilter& self, double seconds, const Values& values) {
            if (values.shape(0) != self.count()) {
              refuse("values: expected float32 of shape (" + std::to_string(self.count()) + ",), got (" +
                     std::to_string(values.shape(0)) + ",)");
            }
            std::unique_ptr<float[]> out(new float[self.count()]);
            self.filter(seconds, values.data(), out.get());
            return own(std::move(out), {self.count()});
          },
          "seconds"_a, "values"_a, "Filters values float32 (count,) taken at `seconds`, later than the last ones.")
      .def("reset", &cln::OneEuroFilter::reset, "Forgets all: the next call is a first one.");
}
