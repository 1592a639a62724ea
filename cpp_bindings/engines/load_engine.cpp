#include <string>

#include "../src/text.hpp"
#include "engines.hpp"

namespace cln {

std::unique_ptr<Engine> load_engine(const std::filesystem::path& path, const EngineOptions& options) {
  const std::string name = path.string();
  if (options.threads < 0) {
    detail::fail(ErrorCode::invalid_input, "threads: expected at least 0, got " + std::to_string(options.threads));
  }
  if (path.extension() == ".onnx") {
#if defined(CLN_HAS_OPENVINO)
    return detail::open_openvino(path, options);
#else
    detail::fail(ErrorCode::engine_unavailable,
                 name +
                     ": running an .onnx file needs OpenVINO, which was not found when this library was built; "
                     "build it with -DCLN_OPENVINO=ON");
#endif
  }
  const Manifest manifest = read_manifest(path);  // refuses other suffixes
#if defined(CLN_TENSORRT_BUILDER)
  if (manifest.builder == CLN_TENSORRT_BUILDER) {
    return detail::open_tensorrt(path);
  }
#endif
  const std::string option = manifest.builder == "tensorrt_rtx" ? "CLN_TENSORRT_RTX" : "CLN_TENSORRT";
  detail::fail(ErrorCode::engine_unavailable, name +
                                                  ": expected a plan for an engine that this library was built with, "
                                                  "got one of '" +
                                                  manifest.builder + "'; build it with -D" + option +
                                                  "=ON, or load the .onnx file");
}

}  // namespace cln
