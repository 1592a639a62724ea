// Faces followed through the frames of a video: ids that stay, smoothed by time stamps. The same algorithm, constants
// and answers as the Python runtime (runtime/tracking.py, runtime/smoothing.py), where they are explained.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "cln/image.hpp"
#include "cln/reconstructor.hpp"
#include "cln/roi.hpp"

namespace cln {

/// A face that a detector found: the region to cut, and its score.
struct Detection {
  Roi roi;
  double score = 0;
};

/// Finds faces in an image, best first. `thorough` is false where the next frame is another chance.
using Detector = std::function<std::vector<Detection>(const ImageView& image, bool thorough)>;

/// How strongly tracked faces are smoothed.
enum class Smoothing { off = 0, still = 1, responsive = 2 };

struct TrackerOptions {
  int max_faces = 4;  ///< at most so many are tracked; 1 saves the looks for more
  Smoothing smoothing = Smoothing::responsive;
  double patience = 5.0;  ///< seconds for which a face that is gone keeps its id
};

/// One face of a frame: smoothed, and as the network alone sees it.
struct TrackedFace {
  int id = 0;
  int age = 0;  ///< frames since it was first seen
  double score = 0;
  Face face;
  Face raw;
};

/// Follows faces through the frames of one video or camera. It belongs to one thread at a time.
class Tracker {
 public:
  /// `reconstructor` must outlive the tracker. Throws Error(invalid_input): an option out of range, or no detector.
  Tracker(Reconstructor& reconstructor, Detector detector, const TrackerOptions& options = {});
  ~Tracker();
  Tracker(Tracker&& other) noexcept;
  Tracker& operator=(Tracker&& other) noexcept;

  /// The faces of the next frame, taken at `seconds`, by id.
  /// Throws Error(invalid_input): no image, or a time that is not after the last one's; and what the engine throws.
  std::vector<TrackedFace> track(const ImageView& image, double seconds);

  /// Forgets all faces and the time: the next frame starts another video. Ids go on.
  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cln
