// The region that a face asks for itself, once the network has seen it (runtime/regions.py, runtime/roi.py).
#pragma once

#include <vector>

#include "cln/reconstructor.hpp"
#include "cln/roi.hpp"

namespace cln::detail {

/// From `other` to `angle` the shorter way round, degrees, -180..180.
double angle_between(double angle, double other);

/// Pixels between the centres of two regions.
double distance(const Roi& a, const Roi& b);

/// Whether a region is off by more than `way` of its side, twice that in size, or by `turn` degrees.
bool is_off(const Roi& roi, const Roi& better, double way, double turn);

/// The nearest region on a grid: runtime/roi.py says why.
Roi on_grid(const Roi& roi);

/// The region around a face's landmarks, turned as the head is; as the face's own was, if seen from far above or below.
Roi asked_roi(const Face& face);

/// The params of the crop of `size` pixels of a region in the frame of the crop of another region.
std::vector<float> moved(const std::vector<float>& params, const Roi& roi, const Roi& other, int size);

}  // namespace cln::detail
