// The C API: statuses and messages instead of exceptions.
#include <cstdio>
#include <fstream>

#include "cln/cln.h"
#include "cln/engine.hpp"
#include "support.hpp"

TEST_CASE("C API: crop, region, filter") {
  cln_error error;
  const Bytes pixels(8 * 8 * 3, 5);
  const cln_image image{pixels.data(), 8, 8, 24, 3};
  const cln_box box{1, 1, 4, 4, 0};
  cln_roi roi;
  CHECK(cln_roi_from_box(&box, &roi, &error) == CLN_OK);
  CHECK(roi.center_x == 3);
  Bytes out(4 * 4 * 3);
  CHECK(cln_crop(&image, &roi, 1, 4, out.data(), &error) == CLN_OK);
  CHECK(out == Bytes(4 * 4 * 3, 5));
  CHECK(cln_crop(&image, nullptr, 0, 4, nullptr, nullptr) == CLN_OK);
  cln_one_euro* filter = nullptr;
  REQUIRE(cln_one_euro_create(1, 1, 0, 1, &filter, &error) == CLN_OK);
  float value = 2;
  CHECK(cln_one_euro_filter(filter, 0, &value, &error) == CLN_OK);
  CHECK(cln_one_euro_filter(filter, 0, &value, &error) == CLN_INVALID_INPUT);
  cln_one_euro_free(filter);
  CHECK(std::string(cln_version()) == "0.1.0");
}

TEST_CASE("C API: a face model from a file") {
  const Bytes data = ModelFile().write();
  const std::string path = "c_api_model.safetensors";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
  cln_error error;
  cln_face_model* model = nullptr;
  REQUIRE(cln_face_model_load(path.c_str(), &model, &error) == CLN_OK);
  CHECK(error.message[0] == '\0');
  CHECK(cln_face_model_num_params(model) == 19);
  CHECK(cln_face_model_vertex_count(model) == 130);
  CHECK(cln_face_model_triangle_count(model) == 2);
  CHECK(cln_face_model_triangles(model)[1] == 7);
  std::vector<float> params(2 * 19), points(2 * 130 * 3);
  params[3] = 4;
  CHECK(cln_face_model_vertices(model, params.data(), 2, points.data(), &error) == CLN_OK);
  CHECK(points[0] == 4);
  CHECK(cln_face_model_landmarks(model, params.data(), 1, points.data(), &error) == CLN_OK);
  cln_reconstructor* reconstructor = nullptr;
  CHECK(cln_reconstructor_create("none.onnx", model, 0, &reconstructor, &error) != CLN_OK);
  CHECK(reconstructor == nullptr);
  CHECK(std::string(error.message).find("none.onnx") != std::string::npos);
  cln_face_model_free(model);
  std::remove(path.c_str());
}

TEST_CASE("C API: NULL and missing files give a status and a message") {
  cln_error error;
  cln_face_model* model = nullptr;
  CHECK(cln_face_model_load("no such file", &model, &error) == CLN_FILE_NOT_FOUND);
  CHECK(std::string(error.message).find("no such file: expected") == 0);
  CHECK(cln_face_model_load(nullptr, &model, &error) == CLN_INVALID_INPUT);
  CHECK(cln_face_model_load("x", nullptr, nullptr) == CLN_INVALID_INPUT);
  CHECK(cln_crop(nullptr, nullptr, 0, 4, nullptr, &error) == CLN_INVALID_INPUT);
  CHECK(cln_roi_from_box(nullptr, nullptr, &error) == CLN_INVALID_INPUT);
  CHECK(cln_face_model_vertices(nullptr, nullptr, 1, nullptr, &error) == CLN_INVALID_INPUT);
  CHECK(cln_reconstruct(nullptr, nullptr, nullptr, 0, nullptr, nullptr, nullptr, nullptr, &error) == CLN_INVALID_INPUT);
  CHECK(cln_one_euro_create(1, -1, 0, 1, nullptr, &error) == CLN_INVALID_INPUT);
  const std::string long_path(5000, 'x');
  CHECK(cln_face_model_load(long_path.c_str(), &model, &error) == CLN_FILE_NOT_FOUND);  // its message is cut
  cln_face_model_free(nullptr);
  cln_reconstructor_free(nullptr);
  cln_one_euro_free(nullptr);
  CHECK(cln_face_model_num_params(nullptr) == 0);
}

TEST_CASE("engines: what cannot be loaded is refused") {
  using cln::ErrorCode;
  CHECK(refuses([] { cln::load_engine("x.txt"); }, ErrorCode::invalid_input, "ending in"));
  CHECK(refuses([] { cln::load_engine("none.engine"); }, ErrorCode::file_not_found, "none.engine"));
  CHECK(refuses([] { cln::load_engine("none.onnx", {-1}); }, ErrorCode::invalid_input, "threads"));
}

TEST_CASE("C API: a tracker needs a reconstructor, a detector and arrays") {
  cln_error error;
  cln_tracker* tracker = nullptr;
  CHECK(cln_tracker_create(nullptr, nullptr, nullptr, 4, CLN_SMOOTHING_STILL, 2, &tracker, &error) ==
        CLN_INVALID_INPUT);
  CHECK(std::string(error.message).find("reconstructor: expected") == 0);
  CHECK(cln_tracker_create(nullptr, nullptr, nullptr, 4, CLN_SMOOTHING_STILL, 2, nullptr, &error) ==
        CLN_INVALID_INPUT);
  std::size_t count = 7;
  CHECK(cln_tracker_track(nullptr, nullptr, 0, &count, nullptr, nullptr, nullptr, nullptr, &error) ==
        CLN_INVALID_INPUT);
  CHECK(count == 0);
  cln_tracker_reset(nullptr);
  cln_tracker_free(nullptr);
}
