# Adds to cln_engines those engines that are wanted and found, and says which.

# cln_report(<option> <name> <found> <detail>): one line on an engine; an error where it is ON and was not found.
function(cln_report option name found detail)
  if(${option} STREQUAL OFF)
    message(STATUS "Engine ${name}: off (${option}=OFF)")
  elseif(found)
    message(STATUS "Engine ${name}: found (${detail})")
  elseif(${option} STREQUAL AUTO)
    message(STATUS "Engine ${name}: not found (${detail})")
  else()
    message(FATAL_ERROR "Engine ${name}: expected to be found since ${option}=${${option}}, but was not. ${detail}")
  endif()
endfunction()

# OpenVINO: an installed one, or the `openvino` wheel of the Python that is found, which carries headers and libraries.
if(NOT CLN_OPENVINO STREQUAL OFF)
  if(NOT OpenVINO_DIR)
    find_package(Python3 QUIET COMPONENTS Interpreter)
    if(Python3_FOUND)
      execute_process(
        COMMAND ${Python3_EXECUTABLE} -c
                "import importlib.util as u; print(u.find_spec('openvino').submodule_search_locations[0])"
        OUTPUT_VARIABLE CLN_OPENVINO_WHEEL OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
  endif()
  find_package(OpenVINO QUIET COMPONENTS Runtime ONNX HINTS ${CLN_OPENVINO_WHEEL}/cmake)
endif()
cln_report(CLN_OPENVINO OpenVINO "${OpenVINO_FOUND}"
           "${OpenVINO_DIR}; pip install openvino, and -DPython3_EXECUTABLE=… or -DOpenVINO_DIR=… say where it is")
if(OpenVINO_FOUND AND NOT CLN_OPENVINO STREQUAL OFF)
  target_sources(cln_engines PRIVATE engines/openvino_engine.cpp)
  target_compile_definitions(cln_engines PRIVATE CLN_HAS_OPENVINO)
  target_link_libraries(cln_engines PRIVATE openvino::runtime)
  set(CLN_NEEDS_OPENVINO ON)
endif()

# TensorRT and TensorRT-RTX export the same symbols, so one library holds one of them: RTX where both are found.
# Set CMAKE_PREFIX_PATH, TensorRT_ROOT or TensorRT_RTX_ROOT to an unpacked SDK.
function(cln_find_tensorrt option name builder root libraries)
  if(${option} STREQUAL OFF)
    cln_report(${option} ${name} OFF "")
    return()
  endif()
  find_path(${builder}_INCLUDE NvInferRuntime.h HINTS ${${root}} ENV ${root} PATH_SUFFIXES include)
  find_library(${builder}_LIBRARY NAMES ${libraries} HINTS ${${root}} ENV ${root} PATH_SUFFIXES lib lib64)
  find_package(CUDAToolkit QUIET)
  set(found OFF)
  if(${builder}_INCLUDE AND ${builder}_LIBRARY AND TARGET CUDA::cudart)
    set(found ON)
  endif()
  cln_report(${option} ${name} ${found}
             "headers: ${${builder}_INCLUDE}, library: ${${builder}_LIBRARY}, CUDA toolkit: ${CUDAToolkit_VERSION}; \
-D${root}=… says where the SDK is")
  get_property(taken TARGET cln_engines PROPERTY CLN_BUILDER)
  if(NOT found OR taken)
    if(found)
      message(STATUS "Engine ${name}: left out, since ${taken} is built in and exports the same symbols")
    endif()
    return()
  endif()
  target_sources(cln_engines PRIVATE engines/tensorrt_engine.cpp)
  target_compile_definitions(cln_engines PRIVATE CLN_TENSORRT_BUILDER="${builder}")
  target_include_directories(cln_engines SYSTEM PRIVATE ${${builder}_INCLUDE})
  target_link_libraries(cln_engines PRIVATE ${${builder}_LIBRARY} CUDA::cudart)
  set_property(TARGET cln_engines PROPERTY CLN_BUILDER ${builder})
  set(CLN_NEEDS_CUDA ON PARENT_SCOPE)
endfunction()

cln_find_tensorrt(CLN_TENSORRT_RTX TensorRT-RTX tensorrt_rtx TensorRT_RTX_ROOT "tensorrt_rtx;tensorrt_rtx_1_5")
cln_find_tensorrt(CLN_TENSORRT TensorRT tensorrt TensorRT_ROOT "nvinfer;nvinfer_10")
