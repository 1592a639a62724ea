// TensorRT and TensorRT-RTX as one engine: one C++ API; CMake says which of the two this is built against.
//
// The plan `X.engine` is checked against its manifest `X.engine.json` before it is loaded. The GPU is CUDA's current
// one. TensorRT-RTX compiles a plan for the GPU at hand when it is loaded, which takes seconds.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>

#include "../src/text.hpp"
#include "engines.hpp"

namespace cln::detail {
namespace {

constexpr const char* input_name = "crops";
constexpr const char* output_name = "params";

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    fail(ErrorCode::engine_unavailable,
         std::string(what) + " needs an NVIDIA GPU and its driver, and CUDA says: " + cudaGetErrorString(status));
  }
}

/// Keeps the last error, for messages.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity == Severity::kERROR || severity == Severity::kINTERNAL_ERROR) {
      try {
        reason_ = message;
      } catch (...) {
        // Out of memory: the message is lost, the error itself is reported by what failed.
      }
    }
  }

  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }

 private:
  std::string reason_ = "it gave no reason";
};

struct StreamDeleter {
  void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
};

struct BufferDeleter {
  void operator()(void* buffer) const noexcept { cudaFree(buffer); }
};

using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter>;
using Buffer = std::unique_ptr<void, BufferDeleter>;

Buffer allocate(std::size_t bytes) {
  void* buffer = nullptr;
  check(cudaMalloc(&buffer, bytes), "GPU memory");
  return Buffer(buffer);
}

class TensorRtEngine final : public Engine {
 public:
  explicit TensorRtEngine(const std::filesystem::path& path) : name_(path.string()), manifest_(read_manifest(path)) {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreate(&stream), "running a plan");
    stream_.reset(stream);
    const auto plan = read_file(path);
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    require(runtime_ != nullptr, "TensorRT's runtime cannot be made");
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    require(engine_ != nullptr, "the plan cannot be loaded by this version or on this GPU");
    check_face();
    context_.reset(engine_->createExecutionContext());
    require(context_ != nullptr, "no execution context could be made");
    const auto largest = static_cast<std::size_t>(manifest_.batch_range.second);
    crops_ = allocate(largest * crop_bytes());
    params_ = allocate(largest * manifest_.num_params() * sizeof(float));
    require(context_->setTensorAddress(input_name, crops_.get()), "the plan has no input 'crops'");
    require(context_->setTensorAddress(output_name, params_.get()), "the plan has no output 'params'");
  }

  [[nodiscard]] const Manifest& manifest() const noexcept override { return manifest_; }

  void run(const std::uint8_t* crops, std::size_t batch, float* params) override {
    const auto largest = static_cast<std::size_t>(manifest_.batch_range.second);
    for (std::size_t start = 0; start < batch; start += largest) {  // beyond the plan's largest batch: in parts
      run_part(crops + start * crop_bytes(), std::min(largest, batch - start), params + start * manifest_.num_params());
    }
  }

 private:
  [[nodiscard]] std::size_t crop_bytes() const {
    const auto side = static_cast<std::size_t>(manifest_.input_size);
    return side * side * 3;
  }

  void require(bool done, const char* complaint) const {
    if (!done) {
      fail(ErrorCode::engine_unavailable, name_ + ": " + complaint + " (" + logger_.reason() +
                                              "); build it again for this machine, or load the .onnx file");
    }
  }

  void check_face() const {
    const nvinfer1::Dims in = engine_->getTensorShape(input_name), out = engine_->getTensorShape(output_name);
    const bool fits = engine_->getTensorDataType(input_name) == nvinfer1::DataType::kUINT8 &&
                      engine_->getTensorDataType(output_name) == nvinfer1::DataType::kFLOAT && in.nbDims == 4 &&
                      in.d[1] == manifest_.input_size && in.d[2] == manifest_.input_size && in.d[3] == 3 &&
                      out.nbDims == 2 && static_cast<std::size_t>(out.d[1]) == manifest_.num_params();
    if (!fits) {
      fail(ErrorCode::file_format, name_ +
                                       ": expected a plan from crops uint8 to params float32 of the sizes in its "
                                       "manifest, got another; build it again");
    }
  }

  void run_part(const std::uint8_t* crops, std::size_t batch, float* params) {
    const std::int64_t side = manifest_.input_size;
    nvinfer1::Dims shape{};
    shape.nbDims = 4;
    const std::int64_t sizes[] = {static_cast<std::int64_t>(batch), side, side, 3};
    for (int i = 0; i < 4; ++i) {
      shape.d[i] = static_cast<std::remove_reference_t<decltype(shape.d[0])>>(sizes[i]);  // 32 bits before TensorRT 10
    }
    require(context_->setInputShape(input_name, shape), "the plan takes no batch of this size");
    const std::size_t result_bytes = batch * manifest_.num_params() * sizeof(float);
    check(cudaMemcpyAsync(crops_.get(), crops, batch * crop_bytes(), cudaMemcpyHostToDevice, stream_.get()), "a copy");
    const bool started = context_->enqueueV3(stream_.get());
    cudaError_t copied = cudaSuccess;
    if (started) {
      copied = cudaMemcpyAsync(params, params_.get(), result_bytes, cudaMemcpyDeviceToHost, stream_.get());
    }
    const cudaError_t waited = cudaStreamSynchronize(stream_.get());  // before any throw: the caller's memory is in use
    require(started, "the plan could not be run");
    check(copied, "a copy");
    check(waited, "running a plan");
  }

  std::string name_;
  Manifest manifest_;
  Logger logger_;  // the members below are destroyed first, in reverse order: each needs those above it
  Stream stream_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  Buffer crops_, params_;
};

}  // namespace

std::unique_ptr<Engine> open_tensorrt(const std::filesystem::path& path) {
  return std::make_unique<TensorRtEngine>(path);
}

}  // namespace cln::detail
