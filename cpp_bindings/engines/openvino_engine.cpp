// OpenVINO's CPU plugin as an engine. It reads ONNX itself; the manifest is read from the file's metadata first.
#include <algorithm>
#include <openvino/openvino.hpp>
#include <string>

#include "../src/text.hpp"
#include "engines.hpp"

namespace cln::detail {
namespace {

class OpenVinoEngine final : public Engine {
 public:
  OpenVinoEngine(const std::filesystem::path& path, const EngineOptions& options)
      : name_(path.string()), manifest_(read_manifest(path)) {
    try {
      compile(options);
    } catch (const ov::Exception& error) {
      fail(ErrorCode::file_format, name_ + ": expected an ONNX model that OpenVINO can load (" + first_line(error) +
                                       "); the file may be truncated: build or fetch it again");
    }
  }

  [[nodiscard]] const Manifest& manifest() const noexcept override { return manifest_; }

  void run(const std::uint8_t* crops, std::size_t batch, float* params) override {
    if (batch == 0) {
      return;
    }
    try {
      const auto side = static_cast<std::size_t>(manifest_.input_size);
      // OpenVINO reads this tensor only; its constructor has no form for constant memory.
      request_.set_input_tensor(ov::Tensor(ov::element::u8, {batch, side, side, 3}, const_cast<std::uint8_t*>(crops)));
      request_.infer();
      const ov::Tensor result = request_.get_output_tensor();
      if (result.get_shape() != ov::Shape{batch, manifest_.num_params()}) {
        fail(ErrorCode::file_format, name_ + ": expected a row of params for each crop, got another shape");
      }
      std::copy_n(result.data<const float>(), result.get_size(), params);
    } catch (const ov::Exception& error) {
      fail(ErrorCode::engine_unavailable, name_ + ": OpenVINO could not run it (" + first_line(error) + ")");
    }
  }

 private:
  static std::string first_line(const std::exception& error) {
    const std::string text = error.what();
    return text.substr(0, text.find('\n'));
  }

  void compile(const EngineOptions& options) {
    const auto model = core_.read_model(name_);
    check_face(*model);
    // float32 even where the processor has bfloat16: the params' range does not bear it.
    ov::AnyMap config = {ov::hint::inference_precision(ov::element::f32),
                         ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
    if (options.threads > 0) {
      config.insert(ov::inference_num_threads(options.threads));
    }
    request_ = core_.compile_model(model, "CPU", config).create_infer_request();
  }

  void check_face(const ov::Model& model) const {
    const std::int64_t side = manifest_.input_size;
    const ov::PartialShape crops = {-1, side, side, 3};
    const ov::PartialShape params = {-1, static_cast<std::int64_t>(manifest_.num_params())};
    const bool fits =
        model.inputs().size() == 1 && model.outputs().size() == 1 &&
        model.input().get_element_type() == ov::element::u8 && model.input().get_partial_shape() == crops &&
        model.output().get_element_type() == ov::element::f32 && model.output().get_partial_shape().compatible(params);
    if (!fits) {
      fail(ErrorCode::file_format, name_ +
                                       ": expected a graph from crops uint8 (B, S, S, 3) to params float32 (B, 12 + "
                                       "S + E) as its manifest says, got another; export it again");
    }
  }

  std::string name_;
  Manifest manifest_;
  ov::Core core_;
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Engine> open_openvino(const std::filesystem::path& path, const EngineOptions& options) {
  return std::make_unique<OpenVinoEngine>(path, options);
}

}  // namespace cln::detail
