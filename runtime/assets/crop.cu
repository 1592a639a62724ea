// Cuts the regions of a frame into a batch of crops: runtime/roi.py's `crop`, one thread for each pixel of the result.
//
// Points are pixels, the centre of the top-left one at (0, 0). Where a region is more than twice as large as its crop,
// the frame is averaged over blocks of n x n pixels, n = floor(side / size), on a grid anchored at the frame's corner;
// means are rounded to 8 bits, as the CPU keeps them. Then bilinear; edges are replicated.
//
// frame: where the frame lies, in memory that a replayed CUDA graph fills again; regions: centre x, centre y, side,
// cosine and sine of the angle between the region's x axis and the frame's, clockwise as seen; crops: (B, size, size, 3). Grid: (ceil(size / blockDim.x), ceil(size / blockDim.y), B).

struct Frame {
  const unsigned char* pixels;  // BGR; of its rows, only the parts that the regions need must exist
  long long row_bytes;
  int height, width;
};

__device__ inline int clamped(int value, int limit) { return value < 0 ? 0 : (value >= limit ? limit - 1 : value); }

__device__ inline float block_mean(const Frame& frame, int block, int x, int y, int channel) {
  if (block == 1) {
    return frame.pixels[clamped(y, frame.height) * frame.row_bytes + 3LL * clamped(x, frame.width) + channel];
  }
  const int columns = (frame.width + block - 1) / block, rows = (frame.height + block - 1) / block;
  const int left = clamped(x, columns) * block, top = clamped(y, rows) * block;
  unsigned int sum = 0;
  for (int v = top; v < top + block; ++v) {
    const unsigned char* row = frame.pixels + clamped(v, frame.height) * frame.row_bytes + channel;
    for (int u = left; u < left + block; ++u) sum += row[3LL * clamped(u, frame.width)];
  }
  // As OpenCV rounds: halves up for 2 x 2, to even otherwise.
  if (block == 2) return static_cast<float>((sum + 2) / 4);
  return rintf(static_cast<float>(sum) * (1.0F / (static_cast<float>(block) * block)));
}

extern "C" __global__ void crop(const Frame* given, const double* regions, int size, unsigned char* crops) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x, line = blockIdx.y * blockDim.y + threadIdx.y;
  if (column >= size || line >= size) return;
  const Frame frame = *given;
  const double* region = regions + 5LL * blockIdx.z;
  const double scale = region[2] / size;
  const int most = frame.height < frame.width ? frame.height : frame.width;
  int block = 1;
  if (scale > 2) block = scale < most ? static_cast<int>(floor(scale)) : most;
  // The crop's pixel in the frame, then in the grid of blocks, whose first centre lies (block - 1) / 2 in.
  const double u = (column - (size - 1) / 2.0) * scale, v = (line - (size - 1) / 2.0) * scale;
  const double x = (region[0] + region[3] * u - region[4] * v + 0.5) / block - 0.5;
  const double y = (region[1] + region[4] * u + region[3] * v + 0.5) / block - 0.5;
  // Far outside, all taps are the edge's; the limits keep the indices within an int.
  const double bounded_x = fmin(fmax(x, -2.0), frame.width + 2.0), bounded_y = fmin(fmax(y, -2.0), frame.height + 2.0);
  const int x0 = static_cast<int>(floor(bounded_x)), y0 = static_cast<int>(floor(bounded_y));
  const float fx = static_cast<float>(bounded_x - x0), fy = static_cast<float>(bounded_y - y0);
  unsigned char* out = crops + ((blockIdx.z * static_cast<long long>(size) + line) * size + column) * 3;
  for (int channel = 0; channel < 3; ++channel) {
    float tap[4];
    for (int k = 0; k < 4; ++k) tap[k] = block_mean(frame, block, x0 + (k & 1), y0 + (k >> 1), channel);
    const float above = tap[0] + fx * (tap[1] - tap[0]), below = tap[2] + fx * (tap[3] - tap[2]);
    out[channel] = static_cast<unsigned char>(rintf(above + fy * (below - above)));
  }
}
