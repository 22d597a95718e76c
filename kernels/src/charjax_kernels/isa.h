// The choice of the instruction set, for every kind of kernel.
#pragma once
#include <cstdlib>
#include <cstring>

namespace charjax {

inline bool fits(const char* name) {
#if defined(__x86_64__)
  if (!std::strcmp(name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (!std::strcmp(name, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

// Return the first version that this processor has, and that is asked for if one is; the last one is
// for any processor.
template <typename Version, int N>
Version choose(const Version (&versions)[N]) {
  const char* wanted = std::getenv("CHARJAX_KERNELS_ISA");
  for (const Version& version : versions)
    if (fits(version.name) && (!wanted || !*wanted || !std::strcmp(wanted, version.name)))
      return version;
  return versions[N - 1];
}

}  // namespace charjax
