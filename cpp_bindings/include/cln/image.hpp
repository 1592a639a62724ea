// What an image may be: 8 bits per channel, grey, BGR or BGRA, anywhere in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace cln {

/// A borrowed image. It is never written to, and must outlive the call that it is passed to.
struct ImageView {
  const std::uint8_t* data = nullptr;  ///< first byte of the top row
  int width = 0;                       ///< pixels, 1..32766 (the Python runtime's limit)
  int height = 0;                      ///< pixels, 1..32766
  std::ptrdiff_t stride = 0;           ///< bytes from a row to the next; negative for images stored bottom-up
  int channels = 3;                    ///< 1 (grey), 3 (BGR) or 4 (BGRA), interleaved
};

/// Throws Error(invalid_input) where `image` has no pixels, odd sides, channels or stride.
void check_image(const ImageView& image);

/// An image that owns its pixels: BGR, rows back to back.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> pixels;  ///< (height, width, 3)

  [[nodiscard]] ImageView view() const {
    return {pixels.data(), width, height, static_cast<std::ptrdiff_t>(width) * 3, 3};
  }
};

/// Reads a binary PPM (P6, 8 bits per channel) as BGR; `name` is used in errors.
/// Throws Error(file_format): another format, odd sizes, or fewer bytes than the header promises.
Image parse_ppm(const std::uint8_t* data, std::size_t size, const std::string& name);

/// As parse_ppm, from a file. Throws Error(file_not_found) too.
Image read_ppm(const std::filesystem::path& path);

}  // namespace cln
