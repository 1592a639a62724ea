// All of the C++ library `cln`.
#pragma once

#include "cln/camera.hpp"
#include "cln/engine.hpp"
#include "cln/error.hpp"
#include "cln/face_model.hpp"
#include "cln/image.hpp"
#include "cln/manifest.hpp"
#include "cln/mesh_file.hpp"
#include "cln/one_euro.hpp"
#include "cln/pose.hpp"
#include "cln/rasterizer.hpp"
#include "cln/reconstructor.hpp"
#include "cln/roi.hpp"
#include "cln/tracker.hpp"
