// CLN_KERNEL marks the few inner loops that are compiled once per instruction set; loading the library chooses.
// Without CLN_DISPATCH (other compilers, sanitizers, musl) they are compiled once, for the target's baseline.
#pragma once

#if defined(CLN_DISPATCH)
#define CLN_KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLN_KERNEL
#endif

// What a kernel calls must be compiled into it, or else it is compiled for the baseline alone.
#if defined(__GNUC__)
#define CLN_INLINE inline __attribute__((always_inline))
#else
#define CLN_INLINE inline
#endif
