// Images, regions, crops, poses.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "cln/image.hpp"
#include "cln/pose.hpp"
#include "cln/rasterizer.hpp"
#include "cln/roi.hpp"
#include "support.hpp"

using cln::ErrorCode;
using cln::ImageView;
using cln::Roi;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// x, 2 * y, 159 - x in the three channels.
cln::Image ramp(int width = 160, int height = 120) {
  cln::Image image{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (const int value : {x, 2 * y, 159 - x}) {
        image.pixels.push_back(static_cast<std::uint8_t>(value));
      }
    }
  }
  return image;
}

Bytes crop(const ImageView& image, const Roi& roi, int size) {
  Bytes out(static_cast<std::size_t>(size) * static_cast<std::size_t>(size) * 3);
  cln::crop(image, &roi, 1, size, out.data());
  return out;
}

}  // namespace

TEST_CASE("points go to the crop and back") {
  const Roi roi{100.5, -20, 77};
  const std::array<float, 6> points = {1, 2, 3, 400, -50, 6};
  std::array<float, 6> there{}, back{};
  roi.to_crop(points.data(), 2, 128, there.data());
  CHECK(there[0] == doctest::Approx((1 - 100.5) * 128 / 77 + 63.5));
  CHECK(there[2] == doctest::Approx(3.0 * 128 / 77));
  roi.to_image(there.data(), 2, 128, back.data());
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(back[i] == doctest::Approx(points[i]));
  }
}

TEST_CASE("a positive angle turns a region and what it shows clockwise") {
  const Roi roi{50, 40, 20, 90};
  const std::array<float, 6> points = {19.5, 9.5, 0, 9.5, 19.5, 2};  // right of and below the crop's middle
  std::array<float, 6> there{}, back{};
  roi.to_image(points.data(), 2, 20, there.data());
  const std::array<float, 6> expected = {50, 50, 0, 40, 40, 2};
  roi.to_crop(there.data(), 2, 20, back.data());
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(there[i] == doctest::Approx(expected[i]));
    CHECK(back[i] == doctest::Approx(points[i]));
  }
  const Roi around = Roi::from_landmarks(there.data(), 2, 90), box = Roi::from_box({40, 20, 20, 40, -30});
  CHECK(around.center_x == doctest::Approx(45));
  CHECK(around.angle == 90);
  CHECK(box.center_y == 40);
  CHECK(box.angle == -30);
}

TEST_CASE("a crop shows what to_image says, with the edge replicated") {
  const cln::Image image = ramp();
  // side 64 at 64 pixels: 1:1; 30: enlarged; 100: shrunk without averaging; far corner: replicated edge
  for (const Roi roi :
       {Roi{80, 60, 64}, Roi{70.25, 50.5, 30}, Roi{80, 60, 100}, Roi{-5, 118, 40}, Roi{900, -900, 50},
        Roi{80, 60, 64, 30}, Roi{70, 5, 90, -135}}) {
    const Bytes out = crop(image.view(), roi, 64);
    double worst = 0;
    for (int v = 0; v < 64; ++v) {
      for (int u = 0; u < 64; ++u) {
        std::array<float, 3> at = {static_cast<float>(u), static_cast<float>(v), 0};
        roi.to_image(at.data(), 1, 64, at.data());
        const double x = std::clamp<double>(at[0], 0, 159), y = std::clamp<double>(at[1], 0, 119);
        const std::uint8_t* pixel = out.data() + (v * 64 + u) * 3;
        worst = std::max({worst, std::abs(pixel[0] - x), std::abs(pixel[1] - 2 * y), std::abs(pixel[2] - (159 - x))});
      }
    }
    CHECK(worst <= 0.501);
  }
}

TEST_CASE("a large region is averaged first") {
  cln::Image stripes{800, 800, Bytes(800 * 800 * 3)};
  for (std::size_t i = 0; i < stripes.pixels.size(); ++i) {
    stripes.pixels[i] = (i / 3) % 2 == 0 ? 0 : 255;
  }
  for (const double side : {640.0, 1280.0, 2000.0}) {  // the last two reach beyond the image
    for (const std::uint8_t value : crop(stripes.view(), {400, 400, side}, 64)) {
      REQUIRE(std::abs(value - 127) <= (side > 700 ? 128 : 1));  // outside, blocks of replicated edge
    }
  }
}

TEST_CASE("regions far out or of odd size give the edge") {
  const cln::Image image{80, 60, Bytes(80 * 60 * 3, 77)};
  for (const Roi roi : {Roi{-9e8, 0, 10}, Roi{0, 9e8, 1e3}, Roi{1e6, -1e6, 9e8}, Roi{50, 50, 1e-6}, Roi{40, 30, 9e8}}) {
    CHECK(crop(image.view(), roi, 16) == Bytes(16 * 16 * 3, 77));
  }
}

TEST_CASE("grey, BGRA, padded and bottom-up images give the same crop as BGR") {
  const cln::Image image = ramp();
  const Roi roi{60, 50, 300};
  const Bytes expected = crop(image.view(), roi, 40);
  Bytes bgra, padded, upside_down;
  for (int y = 0; y < 120; ++y) {
    const std::uint8_t* row = image.pixels.data() + y * 480;
    padded.insert(padded.end(), row, row + 480);
    padded.insert(padded.end(), 13, 255);
    upside_down.insert(upside_down.begin(), row, row + 480);
    for (int x = 0; x < 160; ++x) {
      bgra.insert(bgra.end(), row + 3 * x, row + 3 * x + 3);
      bgra.push_back(255);
    }
  }
  CHECK(crop({bgra.data(), 160, 120, 640, 4}, roi, 40) == expected);
  CHECK(crop({padded.data(), 160, 120, 493, 3}, roi, 40) == expected);
  CHECK(crop({upside_down.data() + 119 * 480, 160, 120, -480, 3}, roi, 40) == expected);
  Bytes grey(160 * 120), from_grey = crop({grey.data(), 160, 120, 160, 1}, roi, 40);
  CHECK(from_grey == Bytes(40 * 40 * 3, 0));
  for (std::size_t i = 0; i < grey.size(); ++i) {
    grey[i] = image.pixels[3 * i];
  }
  from_grey = crop({grey.data(), 160, 120, 160, 1}, roi, 40);
  for (std::size_t i = 0; i < from_grey.size(); ++i) {
    REQUIRE(from_grey[i] == expected[i / 3 * 3]);
  }
}

TEST_CASE("what is no image, region, box or size is refused") {
  const Bytes data(48);
  std::uint8_t out[12];
  const auto cut = [&](ImageView image, Roi roi, int size) {
    return [=, &out] { cln::crop(image, &roi, 1, size, out); };
  };
  const ImageView good{data.data(), 4, 4, 12, 3};
  const Roi roi{1, 1, 2};
  CHECK_NOTHROW(cut(good, roi, 2)());
  for (const ImageView& image : {ImageView{nullptr, 4, 4, 12, 3}, ImageView{data.data(), 0, 4, 12, 3},
                                 ImageView{data.data(), 4, 40000, 12, 3}, ImageView{data.data(), 4, 4, 12, 2},
                                 ImageView{data.data(), 4, 4, 11, 3}, ImageView{data.data(), 4, 4, -3, 3}}) {
    CHECK(refuses(cut(image, roi, 2), ErrorCode::invalid_input, "image: expected"));
  }
  for (const Roi& bad :
       {Roi{not_a_number, 1, 2}, Roi{1, 1, 0}, Roi{1, 1, -1}, Roi{2e9, 1, 1}, Roi{1, 1, not_a_number}}) {
    CHECK(refuses(cut(good, bad, 2), ErrorCode::invalid_input, "region: expected"));
  }
  CHECK(refuses(cut(good, roi, 0), ErrorCode::invalid_input, "crop size"));
  for (const cln::Box& box : {cln::Box{0, 0, 0, 5}, cln::Box{0, 0, 5, -1}, cln::Box{not_a_number, 0, 1, 1},
                              cln::Box{0, 0, not_a_number, 1}}) {
    CHECK(refuses([&] { Roi::from_box(box); }, ErrorCode::invalid_input, "box: expected"));
  }
}

TEST_CASE("a region is the longer side times root two") {
  const std::array<float, 9> points = {10, 20, 0, 50, 100, 0, 30, 40, 0};
  const Roi roi = Roi::from_landmarks(points.data(), 3), box = Roi::from_box({10, 20, 40, 80});
  CHECK(roi.center_x == 30);
  CHECK(roi.center_y == 60);
  CHECK(roi.side == doctest::Approx(80 * std::sqrt(2.0)));
  CHECK(box.side == roi.side);
  CHECK(refuses([&] { Roi::from_landmarks(points.data(), 1); }, ErrorCode::invalid_input, "landmarks"));
}

TEST_CASE("a pose matrix comes apart into scale, rotation and angles") {
  const double yaw = 0.6, pitch = -0.3, roll = 0.2;
  const double cy = std::cos(yaw), sy = std::sin(yaw), cp = std::cos(pitch), sp = std::sin(pitch), cr = std::cos(roll),
               sr = std::sin(roll);
  const double r[9] = {cy * cr,  // Rx(pitch) * Ry(yaw) * Rz(roll), multiplied out
                       cy * sr,
                       -sy,
                       -cp * sr + sp * sy * cr,
                       cp * cr + sp * sy * sr,
                       sp * cy,
                       sp * sr + cp * sy * cr,
                       -sp * cr + cp * sy * sr,
                       cp * cy};
  float p[12];
  for (int i = 0; i < 3; ++i) {
    for (int k = 0; k < 3; ++k) {
      p[4 * i + k] = static_cast<float>(0.7 * (i == 1 ? -1 : 1) * r[3 * i + k]);
    }
    p[4 * i + 3] = static_cast<float>(i + 5);
  }
  const cln::Pose pose = cln::decompose(p);
  CHECK(pose.scale == doctest::Approx(0.7));
  CHECK(pose.yaw == doctest::Approx(yaw * 180 / 3.14159265).epsilon(1e-4));
  CHECK(pose.pitch == doctest::Approx(pitch * 180 / 3.14159265).epsilon(1e-4));
  CHECK(pose.roll == doctest::Approx(roll * 180 / 3.14159265).epsilon(1e-4));
  CHECK(pose.translation[2] == 7);
  for (std::size_t i = 0; i < 9; ++i) {
    CHECK(pose.rotation[i] == doctest::Approx(r[i]).epsilon(1e-5));
  }
  const float straight[12] = {0.7F, 0, 0, 0, 0, -0.7F, 0, 0, 0, 0, 0.7F, 0};
  const cln::Pose turned = cln::turned(cln::decompose(straight), 25);
  CHECK(turned.roll == doctest::Approx(25).epsilon(1e-5));
  CHECK(std::abs(turned.yaw) < 1e-5);
  CHECK(turned.scale == doctest::Approx(0.7));
}

TEST_CASE("a pose of no or too little rank still gives a proper rotation") {
  for (const std::array<float, 12>& p : {std::array<float, 12>{}, {1, 0, 0, 0, 2, 0, 0, 0}, {0, 0, 1, 0, 0, 3}}) {
    const auto r = cln::decompose(p.data()).rotation;
    const double determinant =
        r[0] * (r[4] * r[8] - r[5] * r[7]) - r[1] * (r[3] * r[8] - r[5] * r[6]) + r[2] * (r[3] * r[7] - r[4] * r[6]);
    CHECK(determinant == doctest::Approx(1));
  }
}

TEST_CASE("a PPM is read as BGR, and damaged ones are refused") {
  const auto parse = [](const std::string& text) { return cln::parse_ppm(bytes(text).data(), text.size(), "x.ppm"); };
  const cln::Image image = parse("P6 # comment\n2 1\n255\nRGBrgb");
  CHECK(image.width == 2);
  CHECK(image.pixels == bytes("BGRbgr"));
  for (const char* text :
       {"", "P", "P5 2 1 255 ", "P6", "P6 2 1", "P6 2 1 255", "P6 2 1 255\nRGBrg", "P6 0 1 255\n", "P6 99999 1 255\n",
        "P6 2 1 65535\nRGBrgbRGBrgb", "P6 -2 1 255\nRGBrgb", "P6 2 x 255\nRGBrgb"}) {
    CHECK(refuses([&] { parse(text); }, ErrorCode::file_format, "x.ppm: expected"));
  }
  CHECK(refuses([] { cln::read_ppm("no such file"); }, ErrorCode::file_not_found, "no such file"));
  CHECK(refuses([] { cln::read_ppm("."); }, ErrorCode::file_not_found, "expected a file"));
}

TEST_CASE("the nearest triangle shows, and what lies behind it is hidden") {
  // A square of 20 px, and in front of its left half a smaller one; a triangle that is nowhere.
  const float nan = std::nanf("");
  const std::vector<float> vertices = {10, 10, 0, 30, 10, 0, 30, 30, 0, 10, 30, 0,  5, 15,
                                       5,  20, 15, 5, 20, 25, 5, 5,  25, 5, nan, 0, 0};
  const std::vector<std::int32_t> triangles = {0, 2, 1, 0, 3, 2, 4, 6, 5, 4, 7, 6, 8, 0, 1};
  std::vector<std::int32_t> number(40 * 40);
  std::vector<float> depth(40 * 40), normals(vertices.size()), colors(40 * 40 * 3), over(8);
  cln::rasterize(vertices.data(), triangles.data(), 5, 40, 40, number.data(), depth.data());
  CHECK(std::count_if(number.begin(), number.end(), [](std::int32_t n) { return n >= 0; }) == 21 * 21 + 11 * 5);
  CHECK(number[20 * 40 + 12] >= 2);
  CHECK(number[12 * 40 + 12] <= 1);
  CHECK(depth[20 * 40 + 12] == doctest::Approx(5));
  cln::vertex_normals(vertices.data(), 9, triangles.data(), 4, normals.data());
  CHECK(normals[2] == doctest::Approx(1));
  cln::interpolate(vertices.data(), triangles.data(), number.data(), 40, 40, vertices.data(), 3, colors.data());
  CHECK(colors[(20 * 40 + 12) * 3] == doctest::Approx(12));
  CHECK(colors[(20 * 40 + 12) * 3 + 1] == doctest::Approx(20));
  const std::vector<float> points = {12, 20, 12, 12, 0, 0, nan, 1};
  cln::surface_depth(points.data(), 4, 2, vertices.data(), triangles.data(), 5, over.data());
  CHECK(over[0] == doctest::Approx(5));
  CHECK(over[1] == doctest::Approx(0));
  CHECK(std::isinf(over[2]));
  CHECK(std::isinf(over[3]));
}
