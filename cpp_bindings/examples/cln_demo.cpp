// cln_demo --engine cln.onnx --face-model FILE photo.ppm --boxes x,y,w,h[;x,y,w,h...] [-o face.obj] [--threads N]
//     [--looks 1|4]
//
// Reconstructs the faces in the given boxes; prints their landmarks ("landmark FACE INDEX X Y Z", image pixels), pose
// and timings, and writes the first face's mesh. With four looks, faces whose box was off are seen again. Exits 2 with
// one line on what is wrong.
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cln/cln.hpp"

namespace {

struct Options {
  std::string engine, face_model, photo, boxes, mesh;
  int threads = 0, looks = 1;
};

[[noreturn]] void refuse(const std::string& message) { throw cln::Error(cln::ErrorCode::invalid_input, message); }

int to_int(const std::string& option, const std::string& text) {
  std::istringstream stream(text);
  int value = 0;
  if (!(stream >> value) || !stream.eof()) {
    refuse(option + ": expected an integer, got '" + text + "'");
  }
  return value;
}

Options parse(const std::vector<std::string>& arguments) {
  std::map<std::string, std::string> values;
  std::vector<std::string> photos;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].empty() || arguments[i][0] != '-') {
      photos.push_back(arguments[i]);
    } else if (i + 1 < arguments.size()) {
      values[arguments[i]] = arguments[i + 1];
      ++i;
    } else {
      refuse(arguments[i] + ": expected a value after it, got none");
    }
  }
  const auto take = [&values](const std::string& key) {
    const auto node = values.extract(key);
    return node.empty() ? std::string() : node.mapped();
  };
  Options options{take("--engine"), take("--face-model"), photos.empty() ? "" : photos[0], take("--boxes"), take("-o")};
  const std::string threads = take("--threads"), looks = take("--looks");
  options.threads = threads.empty() ? 0 : to_int("--threads", threads);
  options.looks = looks.empty() ? 1 : to_int("--looks", looks);
  if (options.looks != 1 && options.looks != 4) {
    refuse("--looks: expected 1 or 4, got " + looks);
  }
  const bool complete = !options.engine.empty() && !options.face_model.empty() && !options.boxes.empty();
  if (!complete || photos.size() != 1 || !values.empty()) {
    refuse(
        "usage: cln_demo --engine cln.onnx --face-model FILE photo.ppm --boxes x,y,w,h[;x,y,w,h...] [-o face.obj] "
        "[--threads N] [--looks 1|4]");
  }
  return options;
}

std::vector<cln::Box> parse_boxes(const std::string& text) {
  std::vector<cln::Box> boxes;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ';');) {
    std::istringstream numbers(part);
    cln::Box box;
    char a = 0, b = 0, c = 0;
    numbers >> box.x >> a >> box.y >> b >> box.width >> c >> box.height;
    if (!numbers || a != ',' || b != ',' || c != ',' || numbers.peek() != std::istringstream::traits_type::eof()) {
      refuse("--boxes: expected x,y,w,h, got '" + part + "'");
    }
    boxes.push_back(box);
  }
  return boxes;
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void print(const std::vector<cln::Face>& faces) {
  for (std::size_t i = 0; i < faces.size(); ++i) {
    const cln::Face& face = faces[i];
    std::printf("face %zu yaw %.3f pitch %.3f roll %.3f\n", i, face.pose.yaw, face.pose.pitch, face.pose.roll);
    for (std::size_t k = 0; k < cln::landmark_count; ++k) {
      const float* point = face.landmarks.data() + 3 * k;
      std::printf("landmark %zu %zu %.4f %.4f %.4f\n", i, k, static_cast<double>(point[0]),
                  static_cast<double>(point[1]), static_cast<double>(point[2]));
    }
  }
}

void run(const Options& options) {
  const auto boxes = parse_boxes(options.boxes);
  const cln::Image photo = cln::read_ppm(options.photo);
  auto start = std::chrono::steady_clock::now();
  const auto model = std::make_shared<const cln::FaceModel>(cln::FaceModel::load(options.face_model));
  cln::Reconstructor reconstructor(cln::load_engine(options.engine, {options.threads}), model);
  const double loading = milliseconds_since(start);
  start = std::chrono::steady_clock::now();
  const auto look = [&] {
    auto seen = reconstructor.reconstruct(photo.view(), boxes);
    return options.looks == 4 ? reconstructor.look_again(photo.view(), std::move(seen)) : seen;
  };
  auto faces = look();
  const double first = milliseconds_since(start);
  constexpr int repeats = 20;
  start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) {
    faces = look();
  }
  const double steady = milliseconds_since(start) / repeats;
  print(faces);
  if (!faces.empty()) {
    start = std::chrono::steady_clock::now();
    const auto vertices = reconstructor.vertices(faces[0]);
    const double dense = milliseconds_since(start);
    std::printf("time load %.2f first %.2f steady %.3f vertices %.3f ms\n", loading, first, steady, dense);
    if (!options.mesh.empty()) {
      cln::write_obj(options.mesh, vertices, *model);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(std::vector<std::string>(argv + 1, argv + argc)));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
