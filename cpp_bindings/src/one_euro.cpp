#include "cln/one_euro.hpp"

#include <cmath>
#include <string>

#include "text.hpp"

namespace cln {
namespace {

/// The weight of a new value in a low-pass of `cutoff` Hz, `step` seconds after the last one.
double smoothing(double cutoff, double step) {
  constexpr double two_pi = 6.283185307179586;
  const double r = two_pi * cutoff * step;
  return r / (r + 1);
}

}  // namespace

OneEuroFilter::OneEuroFilter(std::size_t count, const OneEuroOptions& options)
    : options_(options), values_(count), speeds_(count) {
  const auto is_frequency = [](double value) { return std::isfinite(value) && value > 0; };
  if (!is_frequency(options.min_cutoff) || !is_frequency(options.derivative_cutoff) || !std::isfinite(options.beta) ||
      options.beta < 0) {
    detail::fail(ErrorCode::invalid_input,
                 "One Euro filter: expected cutoffs above 0 Hz and a beta of at least 0, got min_cutoff " +
                     std::to_string(options.min_cutoff) + ", beta " + std::to_string(options.beta) +
                     ", derivative_cutoff " + std::to_string(options.derivative_cutoff));
  }
}

void OneEuroFilter::filter(double seconds, const float* values, float* out) {
  if (!std::isfinite(seconds) || (started_ && seconds <= seconds_)) {
    detail::fail(ErrorCode::invalid_input, "One Euro filter: expected a time after " + std::to_string(seconds_) +
                                               " s, got " + std::to_string(seconds) +
                                               "; call reset() for a new sequence");
  }
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (!std::isfinite(values[i])) {
      detail::fail(ErrorCode::invalid_input,
                   "One Euro filter: expected finite values, got another at " + std::to_string(i));
    }
  }
  const double step = seconds - seconds_;
  const double speed_weight = smoothing(options_.derivative_cutoff, step);
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const double value = values[i];
    if (started_) {
      const double speed = (value - values_[i]) / step;
      speeds_[i] += speed_weight * (speed - speeds_[i]);
      values_[i] += smoothing(options_.min_cutoff + options_.beta * std::abs(speeds_[i]), step) * (value - values_[i]);
    } else {
      speeds_[i] = 0;
      values_[i] = value;
    }
    out[i] = static_cast<float>(values_[i]);
  }
  seconds_ = seconds;
  started_ = true;
}

}  // namespace cln
