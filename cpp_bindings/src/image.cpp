#include "cln/image.hpp"

#include "text.hpp"

namespace cln {
namespace {

constexpr int max_side = 32766;

/// The numbers of a PPM header, between spaces and comments.
class PpmHeader {
 public:
  PpmHeader(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  /// The next number, or -1 where there is none up to 65535.
  int number() {
    while (at_ < size_ && (is_space(data_[at_]) || data_[at_] == '#')) {
      if (data_[at_] == '#') {
        while (at_ < size_ && data_[at_] != '\n') {
          ++at_;
        }
      } else {
        ++at_;
      }
    }
    int value = -1;
    for (; at_ < size_ && data_[at_] >= '0' && data_[at_] <= '9'; ++at_) {
      value = (value < 0 ? 0 : value * 10) + (data_[at_] - '0');
      if (value > 65535) {
        return -1;
      }
    }
    return value;
  }

  /// Where the pixels start: one white space after the last number; 0 where that is missing.
  [[nodiscard]] std::size_t pixels() const { return at_ < size_ && is_space(data_[at_]) ? at_ + 1 : 0; }

 private:
  static bool is_space(std::uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 2;  // after "P6"
};

}  // namespace

void check_image(const ImageView& image) {
  const auto row = static_cast<std::ptrdiff_t>(image.width) * image.channels;
  if (image.data == nullptr || image.width < 1 || image.height < 1 || image.width > max_side ||
      image.height > max_side) {
    detail::fail(ErrorCode::invalid_input, "image: expected pixels with sides of 1.." + std::to_string(max_side) +
                                               ", got " + std::to_string(image.width) + " x " +
                                               std::to_string(image.height));
  }
  if (image.channels != 1 && image.channels != 3 && image.channels != 4) {
    detail::fail(ErrorCode::invalid_input,
                 "image: expected 1 (grey), 3 (BGR) or 4 (BGRA) channels, got " + std::to_string(image.channels));
  }
  if (image.stride < row && image.stride > -row) {
    detail::fail(ErrorCode::invalid_input, "image: expected a stride of at least " + std::to_string(row) +
                                               " bytes, got " + std::to_string(image.stride));
  }
}

Image parse_ppm(const std::uint8_t* data, std::size_t size, const std::string& name) {
  if (size < 2 || data[0] != 'P' || data[1] != '6') {
    detail::fail(ErrorCode::file_format, name + ": expected a binary PPM image (P6), got another format; convert it");
  }
  PpmHeader header(data, size);
  const int width = header.number(), height = header.number(), depth = header.number();
  const std::size_t start = header.pixels();
  if (width < 1 || height < 1 || width > max_side || height > max_side || depth != 255 || start == 0) {
    detail::fail(ErrorCode::file_format, name + ": expected a PPM header with sides of 1.." + std::to_string(max_side) +
                                             " and 255 levels, got another; convert it to 8 bits per channel");
  }
  const std::size_t bytes = static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3;
  if (size - start < bytes) {
    detail::fail(ErrorCode::file_format, name + ": expected " + std::to_string(bytes) + " bytes of pixels, got " +
                                             std::to_string(size - start) + ": the file is truncated");
  }
  Image image{width, height, std::vector<std::uint8_t>(bytes)};
  for (std::size_t i = 0; i < bytes; i += 3) {  // RGB to BGR
    const std::uint8_t* rgb = data + start + i;
    image.pixels[i] = rgb[2], image.pixels[i + 1] = rgb[1], image.pixels[i + 2] = rgb[0];
  }
  return image;
}

Image read_ppm(const std::filesystem::path& path) {
  const auto data = detail::read_file(path);
  return parse_ppm(data.data(), data.size(), path.string());
}

}  // namespace cln
