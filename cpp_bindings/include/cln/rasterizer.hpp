// A depth buffer for triangle meshes, as runtime/rasterizer.py has it: pixel (x, y) shows the nearest triangle over
// its centre (x, y); bigger z is nearer; both sides are drawn. Inside a triangle all is linear on the screen.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cln {

/// Triangles (count, 3) of vertices (N, 3), in pixels, drawn into `number` and `depth`, both (height, width): the
/// number of the triangle that a pixel shows, -1 where none does, and its z, -infinity there. What lies outside is cut
/// off; a triangle with a corner that is not finite is not drawn.
void rasterize(const float* vertices, const std::int32_t* triangles, std::size_t count, int width, int height,
               std::int32_t* number, float* depth);

/// Unit normals (vertex_count, 3), area-weighted, out of a mesh whose y points down (its triangles are clockwise).
void vertex_normals(const float* vertices, std::size_t vertex_count, const std::int32_t* triangles, std::size_t count,
                    float* normals);

/// Values of the vertices (N, channels) at each pixel, (height, width, channels); 0 where no triangle shows. `unit`
/// scales those of each pixel to length 1.
void interpolate(const float* vertices, const std::int32_t* triangles, const std::int32_t* number, int width,
                 int height, const float* values, std::size_t channels, float* out, bool unit = false);

/// The z of the nearest surface over each point (point_count, 2 or 3: `stride` numbers apart), -infinity where there is
/// none: the depth test without a grid's resolution.
void surface_depth(const float* points, std::size_t point_count, std::size_t stride, const float* vertices,
                   const std::int32_t* triangles, std::size_t count, float* depth);

}  // namespace cln
