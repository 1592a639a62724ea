// The engines that can be built in. Each has its own source, compiled where its library was found.
#pragma once

#include <filesystem>
#include <memory>

#include "cln/engine.hpp"

namespace cln::detail {

/// `.onnx` through OpenVINO's CPU plugin.
std::unique_ptr<Engine> open_openvino(const std::filesystem::path& path, const EngineOptions& options);

/// A plan of TensorRT or TensorRT-RTX: of whichever the library was built with.
std::unique_ptr<Engine> open_tensorrt(const std::filesystem::path& path);

}  // namespace cln::detail
