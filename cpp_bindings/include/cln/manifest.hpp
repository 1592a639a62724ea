// The manifest: what an engine file is, for whom it was built, and how near it is to the network it came from.
// The same fields as runtime/manifest.py; JSON beside a plan (`X.engine.json`), or in an ONNX file's metadata.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cln {

/// How far a step of the export departs from the network it started from, over a set of crops. The file may say more.
struct Parity {
  std::string step;
  double max_params = 0;       ///< largest difference of a parameter
  double max_landmark_px = 0;  ///< largest distance of a landmark, crop pixels
  std::int64_t crops = 0;
  std::optional<double> p99_landmark_px;  ///< 99 % of the landmarks are nearer than this
};

/// All that a runtime must know of an engine before it runs it.
struct Manifest {
  int input_size = 0;        ///< S: crops are uint8 (B, S, S, 3), BGR; 1..16384
  int shape_count = 0;       ///< 0..100000
  int expression_count = 0;  ///< 0..100000
  std::string face_model;
  std::string face_model_sha256;
  std::string precision;  ///< as read back from the built file: "fp32", "fp16-mixed", "int8"
  std::string builder;    ///< "onnx", "tensorrt", "tensorrt_rtx"
  std::string builder_version;
  std::vector<std::string> compute_capabilities;  ///< of a plan: "7.5", "8.0+"
  std::pair<std::int64_t, std::int64_t> batch_range;
  std::string checkpoint_sha256;
  std::optional<std::string> onnx_sha256;
  std::optional<std::string> plan_sha256;
  std::vector<Parity> parity;
  std::map<std::string, double> figures;  ///< NME and the like, in percent

  /// 12 pose numbers, then shape and expression coefficients.
  [[nodiscard]] std::size_t num_params() const noexcept {
    return 12 + static_cast<std::size_t>(shape_count) + static_cast<std::size_t>(expression_count);
  }
};

/// Reads a manifest in JSON; `name` (of its file) is used in errors.
/// Throws Error(file_format): no JSON, another format or version, a field missing, unknown or of another type.
Manifest parse_manifest(const std::uint8_t* data, std::size_t size, const std::string& name);

/// Reads the manifest in the metadata of an ONNX model (key `cln.manifest`). Throws Error(file_format).
Manifest parse_onnx_manifest(const std::uint8_t* data, std::size_t size, const std::string& name);

/// Reads the manifest of an engine file: inside an `.onnx`, or in the `.json` beside an `.engine`, whose bytes must be
/// those that the manifest names. Throws Error(file_not_found, file_format, invalid_input).
Manifest read_manifest(const std::filesystem::path& engine);

}  // namespace cln
