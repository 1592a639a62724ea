#include "cln/tracker.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "regions.hpp"
#include "text.hpp"

namespace cln {
namespace {

// The constants of runtime/tracking.py, where each is explained.
constexpr double search_pause = 0.5, missing_pause = 0.1, check_pause = 1.0, doubtful_pause = 0.2;
constexpr int most_doubts = 3;
constexpr double rest = 0.02, rest_angle = 2.0, far_off = 0.15, far_turn = 20.0, same = 0.35, inside_share = 0.4,
                 smallest = 12.0;
constexpr int thumb = 16;
constexpr double changed_below = 0.7, alike_above = 0.5, alike_later = 0.85, soon = 1.0, later = 2.0,
                 alike_after_cut = 0.9, hesitation = 0.35, most_grown = 1.5, size_time = 0.5, cut_below = 0.5,
                 reach = 3.0;
constexpr int view_size = 192;
constexpr double degrees = 57.29577951308232, two_pi = 6.283185307179586;
constexpr double jump = 2.0, identity_views = 150.0;

using Vector = std::vector<double>;
using Vector3 = std::array<double, 3>;
using Rotation = std::array<double, 9>;

/// One Euro's frequencies for one part of a face: Hz at rest, and Hz more for each unit of speed.
struct Cutoffs {
  double rest, speed;
};

struct Setting {
  Cutoffs rotation, position, size, expression;
  double of_speed;
};

constexpr Setting still = {{0.25, 13.0}, {0.25, 60.0}, {0.15, 22.0}, {1.0, 1.2}, 2.0};
constexpr Setting responsive = {{0.8, 20.0}, {0.8, 120.0}, {0.4, 40.0}, {2.5, 2.5}, 2.0};

double share_of(double cutoff, double step) {
  const double r = two_pi * cutoff * step;
  return r / (r + 1);
}

Rotation times(const Rotation& a, const Rotation& b, bool transpose_a = false) {
  Rotation c{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      for (std::size_t k = 0; k < 3; ++k) {
        c[3 * i + j] += (transpose_a ? a[3 * k + i] : a[3 * i + k]) * b[3 * k + j];
      }
    }
  }
  return c;
}

double length(const Vector3& v) { return std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]); }

/// Axis times angle, radians.
Vector3 rotation_vector(const Rotation& r) {
  Vector3 v = {r[7] - r[5], r[2] - r[6], r[3] - r[1]};
  const double sine = length(v) / 2, angle = std::atan2(sine, (r[0] + r[4] + r[8] - 1) / 2);
  const double factor = (sine > 1e-9 ? angle / sine : 1.0) / 2;
  for (double& value : v) {
    value *= factor;
  }
  return v;
}

/// Rodrigues' formula.
Rotation vector_rotation(const Vector3& v) {
  const double angle = length(v), scale = 1 / std::max(angle, 1e-12);
  const double x = v[0] * scale, y = v[1] * scale, z = v[2] * scale;
  const Rotation cross = {0, -z, y, z, 0, -x, -y, x, 0};
  const Rotation square = times(cross, cross);
  Rotation result = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  for (std::size_t i = 0; i < 9; ++i) {
    result[i] += std::sin(angle) * cross[i] + (1 - std::cos(angle)) * square[i];
  }
  return result;
}

/// A face placed in the image: vertices = scale * diag(1, -1, 1) * rotation * (mean + ...) + position.
struct Placed {
  Rotation rotation;
  Vector linear;  ///< position in image pixels, logarithm of the scale, expression
  Vector shape;
};

struct Filter {
  Rotation rotation{};
  Vector linear, speed, shape;
  Vector3 turning{};
  double shape_weight = 0;
};

/// A standardised vector of pixels: mean 0, length 1.
Vector standardized(Vector values) {
  double mean = 0, square = 0;
  for (const double value : values) {
    mean += value;
  }
  mean /= static_cast<double>(std::max<std::size_t>(values.size(), 1));
  for (double& value : values) {
    value -= mean;
    square += value * value;
  }
  const double norm = std::max(std::sqrt(square), 1e-6);
  for (double& value : values) {
    value /= norm;
  }
  return values;
}

double product(const Vector& a, const Vector& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

Vector blend(const Vector& old, const Vector& now, double share) {
  Vector mixed(old.size());
  double square = 0;
  for (std::size_t i = 0; i < old.size(); ++i) {
    mixed[i] = (1 - share) * old[i] + share * now[i];
    square += mixed[i] * mixed[i];
  }
  const double norm = std::max(std::sqrt(square), 1e-6);
  for (double& value : mixed) {
    value /= norm;
  }
  return mixed;
}

/// A small picture of the inner three quarters of a crop.
Vector looks_of(const std::uint8_t* crop_pixels, int size) {
  const ImageView view{crop_pixels, size, size, static_cast<std::ptrdiff_t>(size) * 3, 3};
  const int block = std::max((3 * size + 2 * thumb) / (4 * thumb), 1);
  const int begin = std::max(size - thumb * block, 0) / (2 * block) * block;  // a block's edge: means of whole blocks
  const double middle = begin + (thumb * block - 1) / 2.0;
  const Roi inner{middle, middle, static_cast<double>(thumb * block)};
  std::array<std::uint8_t, static_cast<std::size_t>(thumb) * thumb * 3> pixels{};
  crop(view, &inner, 1, thumb, pixels.data());
  return standardized(Vector(pixels.begin(), pixels.end()));
}

bool is_off(const Roi& roi, const Roi& better) { return detail::is_off(roi, better, far_off, far_turn); }

bool is_near(const Roi& a, const Roi& b) { return detail::distance(a, b) < same * std::max(a.side, b.side); }

/// The correlation that a face found again must have, `gone` seconds after it was seen last.
double alike_enough(double gone) {
  return alike_above + (alike_later - alike_above) * std::min(std::max((gone - soon) / (later - soon), 0.0), 1.0);
}

struct Track {
  int id = 0;
  Roi roi;
  double score = 0;
  int age = 0;
  double seen = 0, checked = 0;
  int doubts = 0;
  double suspected = -std::numeric_limits<double>::infinity();
  bool cut = false;
  std::optional<std::array<double, 2>> center{};
  std::array<double, 2> speed{};
  std::optional<Filter> filter{};
  double size = 0;
  Vector recent{}, known{};
};

double grown(const Track& track, const Roi& roi) {
  return track.size > 0 ? std::max(roi.side / track.size, track.size / roi.side) : 1.0;
}

/// What the network says of a track in a frame.
struct Found {
  Face raw;
  Roi next;
  Vector looks;
};

Placed place(const Face& face, std::size_t shape_count) {
  const double scale = face.roi.side / face.crop_size;
  const double turn = face.roi.angle / degrees, c = std::cos(turn), s = std::sin(turn);
  const double middle = (face.crop_size - 1) / 2.0;
  const double u = face.params[3] - middle, v = face.params[7] - middle;
  Placed placed{face.pose.rotation, {}, {}};
  placed.linear = {face.roi.center_x + scale * (c * u - s * v), face.roi.center_y + scale * (s * u + c * v),
                   scale * static_cast<double>(face.params[11]), std::log(face.pose.scale)};
  const auto shape = face.params.begin() + pose_size;
  placed.shape.assign(shape, shape + static_cast<std::ptrdiff_t>(shape_count));
  placed.linear.insert(placed.linear.end(), shape + static_cast<std::ptrdiff_t>(shape_count), face.params.end());
  return placed;
}

/// The inverse of place: params in the frame of the region's crop.
std::vector<float> unplace(const Placed& placed, const Roi& roi, int size) {
  const double scale = size / roi.side, turn = roi.angle / degrees, c = std::cos(turn), s = std::sin(turn);
  const double pixels = std::exp(placed.linear[3]) * scale, middle = (size - 1) / 2.0;
  const double x = placed.linear[0] - roi.center_x, y = placed.linear[1] - roi.center_y;
  const double shift[3] = {scale * (c * x + s * y) + middle, scale * (c * y - s * x) + middle, scale * placed.linear[2]};
  std::vector<float> params(pose_size);
  for (std::size_t k = 0; k < 3; ++k) {
    // Image rows of diag(1, -1, 1) * R, turned back into the crop's axes.
    const double across = placed.rotation[k], down = -placed.rotation[3 + k];
    params[k] = static_cast<float>(pixels * (c * across + s * down));
    params[4 + k] = static_cast<float>(pixels * (c * down - s * across));
    params[8 + k] = static_cast<float>(pixels * placed.rotation[6 + k]);
    params[4 * k + 3] = static_cast<float>(shift[k]);
  }
  for (const double value : placed.shape) {
    params.push_back(static_cast<float>(value));
  }
  for (auto value = placed.linear.begin() + 4; value != placed.linear.end(); ++value) {
    params.push_back(static_cast<float>(*value));
  }
  return params;
}

/// One step of the filter, for one face; a new one passes as it is.
Placed smooth(const Placed& now, std::optional<Filter>& filter, double side, double step, const Setting& setting) {
  if (!filter) {
    filter = Filter{now.rotation, now.linear, Vector(now.linear.size()), {}, {}, 0};
  }
  Vector3 delta = rotation_vector(times(filter->rotation, now.rotation, true));
  const double speed_share = share_of(setting.of_speed, step);
  for (std::size_t i = 0; i < 3; ++i) {
    filter->turning[i] += speed_share * (delta[i] / step - filter->turning[i]);
  }
  const double cutoff = setting.rotation.rest + setting.rotation.speed * length(filter->turning);
  const double share = length(delta) < jump ? share_of(cutoff, step) : 1.0;
  for (double& value : delta) {
    value *= share;
  }
  filter->rotation = times(filter->rotation, vector_rotation(delta));
  Vector& linear = filter->linear;
  Vector& speed = filter->speed;
  for (std::size_t i = 0; i < linear.size(); ++i) {
    const double unit = i < 3 ? side : 1.0;
    speed[i] += speed_share * ((now.linear[i] - linear[i]) / unit / step - speed[i]);
  }
  const double moving = std::hypot(speed[0], speed[1]);
  for (std::size_t i = 0; i < linear.size(); ++i) {
    const Cutoffs& part = i < 3 ? setting.position : i == 3 ? setting.size : setting.expression;
    const double rate = part.rest + part.speed * (i < 3 ? moving : std::abs(speed[i]));
    linear[i] += share_of(rate, step) * (now.linear[i] - linear[i]);
  }
  const double frontal = std::max(now.rotation[8], 0.0), weight = 0.05 + frontal * frontal;
  if (filter->shape_weight == 0) {
    filter->shape = now.shape;
    filter->shape_weight = weight;
  } else {
    filter->shape_weight = std::min(filter->shape_weight + weight, identity_views);
    for (std::size_t i = 0; i < now.shape.size(); ++i) {
      filter->shape[i] += weight / filter->shape_weight * (now.shape[i] - filter->shape[i]);
    }
  }
  return {filter->rotation, filter->linear, filter->shape};
}

/// Whether what was found can be a face of the picture: inside of it, not tiny, and where it was looked for.
bool holds(const Found& found, const ImageView& image) {
  int inside = 0;
  for (std::size_t k = 0; k < landmark_count; ++k) {
    const float x = found.raw.landmarks[3 * k], y = found.raw.landmarks[3 * k + 1];
    inside += x >= 0 && x < static_cast<float>(image.width) && y >= 0 && y < static_cast<float>(image.height);
  }
  return inside >= inside_share * static_cast<double>(landmark_count) && found.next.side >= smallest &&
         !is_off(found.raw.roi, found.next);
}

void remember(Track& track, const Vector& looks) {
  track.recent = track.recent.empty() ? looks : blend(track.recent, looks, 0.3);
  track.known = track.known.empty() ? looks : blend(track.known, looks, 0.03);
}

}  // namespace

struct Tracker::State {
  Reconstructor& reconstructor;
  Detector detector;
  TrackerOptions options;
  std::vector<Track> tracks{}, missing{};
  bool started = false;
  double time = 0;
  double searched = -std::numeric_limits<double>::infinity(), searched_all = searched;
  Vector sparse{};
  int next_id = 0;

  bool scene_changed(const ImageView& image);
  void search(const ImageView& image, std::vector<Found>& found);
  std::optional<Track> start(const ImageView& image, const Detection& detection);
  std::vector<Found> see(const ImageView& image, const std::vector<Roi>& rois);
  std::vector<Found> run(const ImageView& image, const std::vector<Track>& of);
  void judge(const ImageView& image, std::vector<Found>& found, bool cut);
  bool confirm(const ImageView& image, Track& track, const Found& found, const std::vector<Roi>& others, bool changed);
  std::vector<TrackedFace> finish(const std::vector<Found>& found, double step);
  static void move_on(Track& track, const Found& found, double step);
};

Tracker::Tracker(Reconstructor& reconstructor, Detector detector, const TrackerOptions& options) {
  if (options.max_faces < 1 || !(options.patience >= 0) || !std::isfinite(options.patience) || detector == nullptr) {
    detail::fail(ErrorCode::invalid_input, "tracker: expected a detector, max_faces >= 1 and patience >= 0, got " +
                                               std::to_string(options.max_faces) + " and " +
                                               std::to_string(options.patience));
  }
  state_.reset(new State{reconstructor, std::move(detector), options});
}

Tracker::~Tracker() = default;
Tracker::Tracker(Tracker&& other) noexcept = default;
Tracker& Tracker::operator=(Tracker&& other) noexcept = default;

void Tracker::reset() {
  const int next = state_->next_id;
  state_.reset(new State{state_->reconstructor, state_->detector, state_->options});
  state_->next_id = next;
}

std::vector<TrackedFace> Tracker::track(const ImageView& image, double seconds) {
  State& state = *state_;
  check_image(image);
  if (!std::isfinite(seconds) || (state.started && seconds <= state.time)) {
    detail::fail(ErrorCode::invalid_input, "time stamp: expected seconds after the last frame's " +
                                               std::to_string(state.time) + ", got " + std::to_string(seconds) +
                                               "; call reset() for another video");
  }
  const double step = state.started ? seconds - state.time : 0.0;
  state.time = seconds;
  state.started = true;
  const bool cut = state.scene_changed(image);
  state.missing.erase(
      std::remove_if(state.missing.begin(), state.missing.end(),
                     [&state](const Track& track) { return state.time - track.seen > state.options.patience; }),
      state.missing.end());
  auto found = state.run(image, state.tracks);
  state.judge(image, found, cut);
  state.search(image, found);
  return state.finish(found, step);
}

bool Tracker::State::scene_changed(const ImageView& image) {
  const int down = std::max(image.height / 24, 1), across = std::max(image.width / 24, 1);
  Vector values;
  for (int y = down / 2; y < image.height; y += down) {
    for (int x = across / 2; x < image.width; x += across) {
      const std::uint8_t* pixel = image.data + y * image.stride + std::ptrdiff_t{x} * image.channels;
      for (int c = 0; c < 3; ++c) {
        values.push_back(pixel[image.channels == 1 ? 0 : c]);
      }
    }
  }
  const Vector before = std::exchange(sparse, standardized(std::move(values)));
  return !before.empty() && before.size() == sparse.size() && product(before, sparse) < cut_below;
}

// Comes last: a face that was lost in this frame, as where frames were dropped, may be found elsewhere in it.
void Tracker::State::search(const ImageView& image, std::vector<Found>& found) {
  const auto most = static_cast<std::size_t>(options.max_faces);
  if (tracks.size() >= most) {
    return;
  }
  const auto just_gone = [this](const Track& track) { return time - track.seen < later; };
  const bool hurry = std::any_of(missing.begin(), missing.end(), just_gone);
  const double pause = tracks.empty() ? 0.0 : hurry ? missing_pause : search_pause;
  if (time - searched < pause) {
    return;
  }
  const bool thorough = tracks.empty() && time - searched_all >= search_pause;
  searched = time;
  if (thorough) {
    searched_all = time;
  }
  std::size_t room = most - tracks.size();
  std::vector<Track> fresh;
  for (const Detection& detection : detector(image, thorough)) {
    const auto known = [&detection](const Found& one) { return is_near(detection.roi, one.next); };
    if (room > 0 && std::none_of(found.begin(), found.end(), known)) {
      --room;
      if (auto track = start(image, detection)) {
        fresh.push_back(std::move(*track));
      }
    }
  }
  auto seen = run(image, fresh);
  for (std::size_t i = 0; i < fresh.size(); ++i) {
    Track& track = fresh[i];
    const auto taken = [&seen, i](const Found& one) { return is_near(seen[i].next, one.next); };
    if (holds(seen[i], image) && std::none_of(found.begin(), found.end(), taken)) {
      remember(track, seen[i].looks);
      track.seen = time;
      tracks.push_back(std::move(track));
      found.push_back(std::move(seen[i]));
    } else if (track.age > 0) {
      missing.push_back(std::move(track));
    }
  }
}

std::optional<Track> Tracker::State::start(const ImageView& image, const Detection& detection) {
  const int size = reconstructor.manifest().input_size;
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(size) * static_cast<std::size_t>(size) * 3);
  crop(image, &detection.roi, 1, size, pixels.data());
  const Vector looks = looks_of(pixels.data(), size);
  double best = -1;
  std::size_t which = missing.size();
  bool doubtful = false;
  for (std::size_t i = 0; i < missing.size(); ++i) {
    Track& track = missing[i];
    const double alike = track.known.empty() ? 1.0 : product(track.known, looks);
    if (detail::distance(detection.roi, track.roi) > detection.roi.side * (0.5 + reach * (time - track.seen)) ||
        grown(track, detection.roi) > most_grown) {
      continue;
    }
    if (alike > (track.cut ? alike_after_cut : alike_enough(time - track.seen))) {
      if (alike > best) {
        best = alike;
        which = i;
      }
    } else if (!track.cut) {  // half hidden still by what covered it?
      if (time - track.suspected > 2 * hesitation) {  // that was another time
        track.suspected = time;
      }
      doubtful = doubtful || time - track.suspected < hesitation;
    }
  }
  if (doubtful && which == missing.size()) {
    return std::nullopt;
  }
  Track track;
  track.roi = detection.roi;
  track.score = detection.score;
  track.checked = time;
  if (which == missing.size()) {
    track.id = next_id++;
    return track;
  }
  track.id = missing[which].id;
  track.age = missing[which].age;
  track.seen = missing[which].seen;
  track.known = missing[which].known;
  track.size = detection.roi.side;
  missing.erase(missing.begin() + static_cast<std::ptrdiff_t>(which));
  return track;
}

std::vector<Found> Tracker::State::see(const ImageView& image, const std::vector<Roi>& rois) {
  std::vector<Found> found;
  if (rois.empty()) {
    return found;
  }
  auto faces = reconstructor.reconstruct(image, rois);
  for (std::size_t i = 0; i < faces.size(); ++i) {
    Face& face = faces[i];
    const Roi next = detail::asked_roi(face);
    const auto side = static_cast<std::size_t>(face.crop_size);
    found.push_back({std::move(face), next, looks_of(reconstructor.crops() + i * side * side * 3, int(side))});
  }
  return found;
}

std::vector<Found> Tracker::State::run(const ImageView& image, const std::vector<Track>& of) {
  std::vector<Roi> rois;
  for (const Track& track : of) {
    rois.push_back(track.roi);
  }
  auto found = see(image, rois);
  std::vector<Roi> better;
  std::vector<std::size_t> again;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (is_off(found[i].raw.roi, found[i].next)) {
      again.push_back(i);
      better.push_back(detail::on_grid(found[i].next));
    }
  }
  auto seen = see(image, better);
  for (std::size_t i = 0; i < again.size(); ++i) {
    found[again[i]] = std::move(seen[i]);
  }
  return found;
}

void Tracker::State::judge(const ImageView& image, std::vector<Found>& found, bool cut) {
  const std::size_t count = found.size();
  std::vector<double> of_late(count), of_all(count);
  std::vector<bool> lost(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Found& one = found[i];
    of_late[i] = tracks[i].recent.empty() ? 1.0 : product(tracks[i].recent, one.looks);
    of_all[i] = tracks[i].known.empty() ? 1.0 : product(tracks[i].known, one.looks);
    lost[i] = !holds(one, image);
  }
  for (std::size_t i = 0; i < count; ++i) {  // two tracks of one face: it is the one's whose looks it has
    for (std::size_t k = 0; k < i; ++k) {
      if (!lost[i] && !lost[k] && is_near(found[i].next, found[k].next)) {
        lost[of_all[i] <= of_all[k] ? i : k] = true;
      }
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    Track& track = tracks[i];
    if (lost[i]) {
      continue;
    }
    const bool changed =
        track.age > 0 && (of_late[i] < changed_below || grown(track, found[i].next) > most_grown);
    if (changed && cut) {  // a face there is another scene's
      lost[i] = true;
      track.cut = true;
    } else if (changed || time - track.checked >= (track.doubts > 0 ? doubtful_pause : check_pause)) {
      std::vector<Roi> others;
      for (std::size_t k = 0; k < count; ++k) {
        if (k != i && !lost[k]) {
          others.push_back(found[k].next);
        }
      }
      lost[i] = !confirm(image, track, found[i], others, changed);
      if (changed) {
        track.recent.clear();
      }
    }
    remember(track, found[i].looks);
  }
  std::vector<Track> kept;
  std::vector<Found> kept_found;
  for (std::size_t i = 0; i < count; ++i) {
    if (lost[i]) {
      missing.push_back(std::move(tracks[i]));
    } else {
      tracks[i].seen = time;
      kept.push_back(std::move(tracks[i]));
      kept_found.push_back(std::move(found[i]));
    }
  }
  tracks = std::move(kept);
  found = std::move(kept_found);
}

bool Tracker::State::confirm(const ImageView& image, Track& track, const Found& found, const std::vector<Roi>& others,
                             bool changed) {
  Roi view = found.next;
  view.side *= 2.2;
  view = detail::on_grid(view);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(view_size) * view_size * 3);
  crop(image, &view, 1, view_size, pixels.data());
  track.checked = time;
  for (const Detection& detection : detector({pixels.data(), view_size, view_size, view_size * 3, 3}, false)) {
    const std::array<float, 3> at = {static_cast<float>(detection.roi.center_x),
                                     static_cast<float>(detection.roi.center_y), 0};
    std::array<float, 3> placed{};
    view.to_image(at.data(), 1, view_size, placed.data());
    const Roi seen{static_cast<double>(placed[0]), static_cast<double>(placed[1]),
                   detection.roi.side * view.side / view_size};
    const auto is_seen = [&seen](const Roi& other) { return is_near(seen, other); };
    if (is_near(seen, found.next) && std::none_of(others.begin(), others.end(), is_seen)) {
      track.doubts = 0;
      track.score = detection.score;
      return true;
    }
  }
  ++track.doubts;
  return !changed && track.doubts < most_doubts;
}

std::vector<TrackedFace> Tracker::State::finish(const std::vector<Found>& found, double step) {
  std::vector<TrackedFace> result;
  const std::size_t shape_count = reconstructor.face_model().shape_count();
  for (std::size_t i = 0; i < found.size(); ++i) {
    Track& track = tracks[i];
    TrackedFace face{track.id, track.age, track.score, found[i].raw, found[i].raw};
    if (options.smoothing != Smoothing::off) {
      const Setting& setting = options.smoothing == Smoothing::still ? still : responsive;
      const Placed placed = place(found[i].raw, shape_count);
      const double side = found[i].raw.roi.side;
      const Placed steady = smooth(placed, track.filter, side, step > 0 ? step : 1.0, setting);
      face.face = reconstructor.face(unplace(steady, found[i].raw.roi, found[i].raw.crop_size), found[i].raw.roi);
    }
    result.push_back(std::move(face));
    move_on(track, found[i], step);
  }
  std::sort(result.begin(), result.end(), [](const TrackedFace& a, const TrackedFace& b) { return a.id < b.id; });
  return result;
}

void Tracker::State::move_on(Track& track, const Found& found, double step) {
  const Roi& now = found.next;
  const Roi& old = found.raw.roi;
  const std::array<double, 2> center = {now.center_x, now.center_y};
  if (track.center && step > 0) {
    for (std::size_t k = 0; k < 2; ++k) {
      track.speed[k] = 0.5 * track.speed[k] + 0.5 * (center[k] - (*track.center)[k]) / step;
    }
  }
  track.center = center;
  ++track.age;
  if (track.size > 0) {
    track.size *= std::pow(now.side / track.size, 1 - std::exp(-step / size_time));
  } else {
    track.size = now.side;
  }
  double ahead_x = track.speed[0] * step, ahead_y = track.speed[1] * step;
  const double least = std::min(1.0, 0.25 * now.side / std::max(std::hypot(ahead_x, ahead_y), 1e-9));
  ahead_x *= least;
  ahead_y *= least;
  const double x = center[0] + ahead_x, y = center[1] + ahead_y;
  const double far = std::hypot(x - old.center_x, y - old.center_y);
  const double go = far > 0 ? std::max(0.0, 1 - rest * old.side / far) : 0.0;
  const double growth = std::log(now.side / old.side);
  const double side = old.side * std::exp(std::copysign(std::max(0.0, std::abs(growth) - rest), growth));
  const double turn = detail::angle_between(now.angle, old.angle);
  const double angle = old.angle + std::copysign(std::max(0.0, std::abs(turn) - rest_angle), turn);
  track.roi = detail::on_grid({old.center_x + go * (x - old.center_x), old.center_y + go * (y - old.center_y), side,
                       detail::angle_between(angle, 0.0)});
}

}  // namespace cln
