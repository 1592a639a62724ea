// The tracker for Python: `cln_cpp.Tracker`, with an engine and a detector that are Python's.
#pragma once

#include <nanobind/nanobind.h>

void bind_tracker(nanobind::module_& m);
