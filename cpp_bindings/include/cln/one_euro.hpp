// The One Euro filter: little jitter at rest, little lag in motion.
// Source: Casiez, Roussel, Vogel, "1 Euro Filter: a simple speed-based low-pass filter", CHI 2012, algorithm 1.
#pragma once

#include <cstddef>
#include <vector>

namespace cln {

/// The filter's three frequencies.
struct OneEuroOptions {
  double min_cutoff = 1.0;         ///< Hz, above 0: lower removes more jitter at rest
  double beta = 0.0;               ///< Hz per (unit per second), at least 0: higher follows fast motion sooner
  double derivative_cutoff = 1.0;  ///< Hz, above 0: of the speed's own low-pass
};

/// Filters `count` independent values, such as params, a box or landmarks, with shared timestamps.
class OneEuroFilter {
 public:
  /// Throws Error(invalid_input): an option out of its range.
  explicit OneEuroFilter(std::size_t count, const OneEuroOptions& options = {});

  /// Filters `values` (count,) taken at `seconds` into `out`, which may be `values`. The first call passes them on.
  /// Throws Error(invalid_input): a time not after the last one, or a value that is not finite; the state is kept.
  void filter(double seconds, const float* values, float* out);

  /// Forgets all: the next call is a first one.
  void reset() noexcept { started_ = false; }

  [[nodiscard]] std::size_t count() const noexcept { return values_.size(); }

 private:
  OneEuroOptions options_;
  bool started_ = false;
  double seconds_ = 0;
  std::vector<double> values_, speeds_;  // filtered
};

}  // namespace cln
