// Engines: a batch of crops in, params out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

#include "cln/manifest.hpp"

namespace cln {

/// A loaded network. One engine belongs to one thread at a time.
class Engine {
 public:
  virtual ~Engine() = default;

  [[nodiscard]] virtual const Manifest& manifest() const noexcept = 0;

  /// Writes params float32 (batch, 12 + S + E) of crops uint8 (batch, size, size, 3), BGR; any batch from 0 on.
  /// Throws Error(engine_unavailable) where the library or the device fails.
  virtual void run(const std::uint8_t* crops, std::size_t batch, float* params) = 0;

 protected:
  Engine() = default;
  Engine(const Engine&) = default;
  Engine& operator=(const Engine&) = default;
};

struct EngineOptions {
  int threads = 0;  ///< of a CPU engine, inside one call; 0: the library's own choice
};

/// Loads an engine file: `.onnx` through OpenVINO, `.engine` through TensorRT or TensorRT-RTX, as its manifest says.
/// In the library target cln::engines, which has those that were found when it was built.
/// Throws Error: file_not_found, file_format (truncated or foreign), invalid_input (another suffix),
/// engine_unavailable (not built in, or no device).
std::unique_ptr<Engine> load_engine(const std::filesystem::path& path, const EngineOptions& options = {});

}  // namespace cln
