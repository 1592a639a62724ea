#include <cstddef>
#include <cstdint>

#include "cln/error.hpp"
#include "cln/image.hpp"
#include "cln/roi.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const cln::Image image = cln::parse_ppm(data, size, "input");
    if (image.pixels.size() < 100000) {
      const double side = size % 3 == 0 ? image.width : 3.7 * image.width;
      const cln::Roi roi{image.width / 3.0, image.height / 2.0, side};
      std::uint8_t crop[8 * 8 * 3];
      cln::crop(image.view(), &roi, 1, 8, crop);
    }
  } catch (const cln::Error&) {
    // Refused, as most inputs should be.
  }
  return 0;
}
