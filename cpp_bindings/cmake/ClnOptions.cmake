# What all targets are compiled with.

# cln_configure(<target>): include folders, warnings, sanitizers.
function(cln_configure target)
  target_compile_features(${target} PUBLIC cxx_std_17)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                              $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 $<$<BOOL:${CLN_WERROR}>:/WX>)
  else()
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow
                                             -Wnon-virtual-dtor $<$<BOOL:${CLN_WERROR}>:-Werror>
                                             $<$<CONFIG:Release>:-O3>)
  endif()
  if(CLN_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${CLN_SANITIZE} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${CLN_SANITIZE})
  endif()
endfunction()

# cln_detect_dispatch(): sets CLN_CAN_DISPATCH where inner loops can be compiled for several instruction sets, the best
# of which is chosen when the library is loaded (GNU indirect functions; sanitizers are not ready that early).
function(cln_detect_dispatch)
  set(can OFF)
  if(NOT CLN_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    include(CheckCXXSourceCompiles)
    set(CMAKE_REQUIRED_FLAGS -Werror)
    check_cxx_source_compiles(
      "__attribute__((target_clones(\"arch=x86-64-v4\", \"arch=x86-64-v3\", \"default\"))) int f() { return 0; }
       int main() { return f(); }"
      CLN_HAS_TARGET_CLONES)
    set(can ${CLN_HAS_TARGET_CLONES})
  endif()
  set(CLN_CAN_DISPATCH ${can} PARENT_SCOPE)
endfunction()
