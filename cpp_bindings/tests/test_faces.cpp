// Decoding, filtering, reconstruction.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <locale>
#include <memory>
#include <random>
#include <thread>

#include "cln/mesh_file.hpp"
#include "cln/one_euro.hpp"
#include "cln/reconstructor.hpp"
#include "support.hpp"

using cln::ErrorCode;
using cln::FaceModel;
using cln::OneEuroFilter;

namespace {

/// Numbers as many locales write them.
struct Comma final : std::numpunct<char> {
  [[nodiscard]] char do_decimal_point() const override { return ','; }
  [[nodiscard]] char do_thousands_sep() const override { return '.'; }
  [[nodiscard]] std::string do_grouping() const override { return "\3"; }
};

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

std::shared_ptr<const FaceModel> make_model(std::size_t points = 130) {
  const Bytes data = ModelFile(points).write();
  return std::make_shared<const FaceModel>(FaceModel::parse(data.data(), data.size(), "model"));
}

/// Answers each crop with a frontal mean face, moved right by the crop's first byte.
class FakeEngine final : public cln::Engine {
 public:
  explicit FakeEngine(const FaceModel& model, float scale = 0.5F) : scale_(scale) {
    manifest_.input_size = 16;
    manifest_.shape_count = static_cast<int>(model.shape_count());
    manifest_.expression_count = static_cast<int>(model.expression_count());
    manifest_.face_model_sha256 = model.sha256();
  }

  [[nodiscard]] const cln::Manifest& manifest() const noexcept override { return manifest_; }

  void run(const std::uint8_t* crops, std::size_t batch, float* params) override {
    for (std::size_t b = 0; b < batch; ++b, params += manifest_.num_params()) {
      std::fill(params, params + manifest_.num_params(), 0.0F);
      params[0] = scale_, params[5] = -scale_, params[10] = scale_;
      params[3] = static_cast<float>(crops[b * 16 * 16 * 3]);
    }
  }

  cln::Manifest manifest_;

 private:
  float scale_;
};

}  // namespace

TEST_CASE("decoding is the formula, for any batch and number of threads") {
  for (const std::size_t points : {std::size_t{1}, std::size_t{64}, std::size_t{130}}) {
    constexpr std::size_t modes = 7, params_size = 12 + modes, batch = 6;  // 6: a group of four faces, and two alone
    std::vector<float> rows((1 + modes) * points * 3), params(batch * params_size);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i] = std::sin(static_cast<float>(i));
    }
    for (std::size_t i = 0; i < params.size(); ++i) {
      params[i] = std::cos(static_cast<float>(3 * i));
    }
    const cln::Decoder decoder(rows.data(), modes, points);
    std::vector<float> out(batch * points * 3, not_a_number), threaded(out);
    decoder.decode(params.data(), batch, out.data());
    decoder.decode(params.data(), batch, threaded.data(), 3);
    CHECK(out == threaded);
    double worst = 0;
    for (std::size_t b = 0; b < batch; ++b) {
      const float* p = params.data() + b * params_size;
      for (std::size_t i = 0; i < points; ++i) {
        double v[3];
        for (std::size_t axis = 0; axis < 3; ++axis) {
          v[axis] = rows[i * 3 + axis];
          for (std::size_t k = 0; k < modes; ++k) {
            v[axis] += double{p[12 + k]} * double{rows[((k + 1) * points + i) * 3 + axis]};
          }
        }
        for (std::size_t axis = 0; axis < 3; ++axis) {
          const float* r = p + 4 * axis;
          const double expected = double{r[0]} * v[0] + double{r[1]} * v[1] + double{r[2]} * v[2] + double{r[3]};
          worst = std::max(worst, std::abs(expected - double{out[(b * points + i) * 3 + axis]}));
        }
      }
    }
    CHECK(worst < 1e-5);
    CHECK(refuses([&] { decoder.decode(params.data(), 1, out.data(), 0); }, ErrorCode::invalid_input, "threads"));
  }
}

TEST_CASE("landmarks are the points of the surface that the model names") {
  for (const bool vertices_alone : {false, true}) {
    ModelFile file;
    if (vertices_alone) {
      file.use_landmark_vertices();
    }
    const auto data = file.write();
    const auto model = FaceModel::parse(data.data(), data.size(), "test");
    std::vector<float> params(model.num_params(), 0.3F), vertices(130 * 3), landmarks(68 * 3);
    model.vertices(params.data(), 1, vertices.data());
    model.landmarks(params.data(), 1, landmarks.data());
    for (std::size_t i = 0; i < 68; ++i) {
      float expected[3] = {};
      for (std::size_t k = 3 * i; k < 3 * i + 3; ++k) {
        const auto vertex = static_cast<std::size_t>(model.landmark_triangles()[k]);
        for (std::size_t axis = 0; axis < 3; ++axis) {
          expected[axis] += model.landmark_weights()[k] * vertices[3 * vertex + axis];
        }
      }
      CHECK(landmarks[3 * i] == doctest::Approx(expected[0]));
      CHECK(landmarks[3 * i + 2] == doctest::Approx(expected[2]));
      if (vertices_alone) {
        CHECK(model.landmark_weights()[3 * i] == 1.0F);
      }
    }
  }
}

TEST_CASE("One Euro filter: the paper's recurrences") {
  OneEuroFilter filter(1, {1.5, 0.5, 2.0});
  const double times[] = {10, 10.1, 10.15, 10.4};
  const float values[] = {1, 3, 2, 8};
  double value = 1, speed = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    if (i > 0) {
      const double step = times[i] - times[i - 1], pi = 3.14159265358979;
      const auto alpha = [&](double cutoff) { return 1 / (1 + 1 / (2 * pi * cutoff) / step); };
      const double given = double{values[i]};
      speed = alpha(2.0) * (given - value) / step + (1 - alpha(2.0)) * speed;
      const double weight = alpha(1.5 + 0.5 * std::abs(speed));
      value = weight * given + (1 - weight) * value;
    }
    float out = 0;
    filter.filter(times[i], &values[i], &out);
    CHECK(double{out} == doctest::Approx(value));
  }
}

TEST_CASE("One Euro filter: bad times and values are refused, and leave the state as it was") {
  OneEuroFilter filter(2), twin(2);
  const float first[] = {1, 2}, bad[] = {1, not_a_number}, next[] = {5, 6};
  float out[2], expected[2];
  filter.filter(1, first, out);
  twin.filter(1, first, out);
  const auto call = [&](double t, const float* v) { return [&filter, &out, t, v] { filter.filter(t, v, out); }; };
  CHECK(refuses(call(1, next), ErrorCode::invalid_input, "time after"));
  CHECK(refuses(call(0.5, next), ErrorCode::invalid_input, "time after"));
  CHECK(refuses(call(std::numeric_limits<double>::infinity(), next), ErrorCode::invalid_input, "time after"));
  CHECK(refuses(call(2, bad), ErrorCode::invalid_input, "finite values"));
  filter.filter(2, next, out);
  twin.filter(2, next, expected);
  CHECK(out[0] == expected[0]);
  CHECK(out[1] < 6);
  filter.reset();
  filter.filter(0, next, out);
  CHECK(out[1] == 6);
  for (const cln::OneEuroOptions& options :
       {cln::OneEuroOptions{0, 0, 1}, cln::OneEuroOptions{1, -1, 1}, cln::OneEuroOptions{1, 0, std::nan("")}}) {
    CHECK(refuses([&] { OneEuroFilter{1, options}; }, ErrorCode::invalid_input, "cutoffs"));
  }
}

TEST_CASE("faces come back in order, in image pixels") {
  const auto model = make_model();
  cln::Reconstructor reconstruct(std::make_unique<FakeEngine>(*model), model);
  cln::Image image{64, 64, Bytes(64 * 64 * 3, 8)};
  const auto faces = reconstruct.reconstruct(image.view(), std::vector<cln::Box>{{10, 10, 20, 20}, {30, 30, 10, 10}});
  REQUIRE(faces.size() == 2);
  CHECK(faces[1].roi.center_x == 35);
  const auto vertices = reconstruct.vertices(faces[0]);
  const cln::Roi& roi = faces[0].roi;
  // u = 0.5 * x + 8, then to the image
  const double expected = (0.5 * double{model->mean()[0]} + 8 - 7.5) * roi.side / 16 + roi.center_x;
  CHECK(double{vertices[0]} == doctest::Approx(expected));
  CHECK(faces[0].pose.scale == doctest::Approx(0.5 * roi.side / 16));
  CHECK(faces[0].pose.yaw == doctest::Approx(0));
  CHECK(reconstruct.reconstruct(image.view(), std::vector<cln::Box>{}).empty());
  for (const cln::Box& box : {cln::Box{9000, 9000, 100, 100}, cln::Box{65, 0, 9, 20}, cln::Box{60, 9, 90, 20, 90}}) {
    CHECK(refuses(
        [&] {
          reconstruct.reconstruct(image.view(), std::vector<cln::Box>{{1, 1, 4, 4}, box});
        },
        ErrorCode::invalid_input, "box 1: expected a box that overlaps the image of 64 x 64"));
  }
  cln::Face foreign = faces[0];
  foreign.params.pop_back();
  CHECK(refuses([&] { (void)reconstruct.vertices(foreign); }, ErrorCode::invalid_input, "face"));
}

TEST_CASE("parts that do not belong together, and engines that give NaN, are refused") {
  const auto model = make_model(), other = make_model(131);
  const auto join = [](std::unique_ptr<cln::Engine> engine, std::shared_ptr<const FaceModel> with) {
    cln::Reconstructor(std::move(engine), std::move(with));
  };
  CHECK(
      refuses([&] { join(std::make_unique<FakeEngine>(*model), other); }, ErrorCode::mismatch, "built for face model"));
  CHECK(refuses([&] { join(nullptr, model); }, ErrorCode::invalid_input, "none"));
  CHECK(refuses([&] { join(std::make_unique<FakeEngine>(*model), nullptr); }, ErrorCode::invalid_input, "none"));
  cln::Reconstructor broken(std::make_unique<FakeEngine>(*model, not_a_number), model);
  const cln::Image image{8, 8, Bytes(8 * 8 * 3)};
  CHECK(refuses(
      [&] {
        broken.reconstruct(image.view(), std::vector<cln::Box>{{1, 1, 4, 4}});
      },
      ErrorCode::file_format, "NaN"));
}

TEST_CASE("several reconstructors in several threads share a face model") {
  const auto model = make_model();
  const cln::Image image{64, 64, Bytes(64 * 64 * 3, 8)};
  std::vector<std::vector<cln::Face>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      cln::Reconstructor reconstruct(std::make_unique<FakeEngine>(*model), model);
      for (int i = 0; i < 50; ++i) {
        result = reconstruct.reconstruct(image.view(), std::vector<cln::Box>{{10, 10, 20, 20}, {5, 6, 7, 8}});
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const auto& result : results) {
    CHECK(result.at(1).landmarks == results[0].at(1).landmarks);
  }
}

TEST_CASE("a mesh is written only where it fits") {
  const auto model = make_model(3);
  CHECK(refuses([&] { cln::write_obj("x.obj", {1, 2, 3}, *model); }, ErrorCode::invalid_input, "expected 3 vertices"));
  const std::vector<float> vertices(9);
  CHECK(refuses([&] { cln::write_obj("no/such/folder/x.obj", vertices, *model); }, ErrorCode::file_not_found, "x.obj"));
  const auto folder = std::filesystem::temp_directory_path() / ("cln-mesh-" + std::to_string(std::random_device{}()));
  std::filesystem::create_directory(folder);
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Comma));
  cln::write_obj(folder / "x.obj", vertices, *model);
  std::locale::global(before);
  std::ifstream file(folder / "x.obj");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  CHECK(text.find("v ") == 0);
  CHECK(text.find(',') == std::string::npos);
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
  std::filesystem::remove_all(folder);
}
