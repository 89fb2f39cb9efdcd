// What the processor says that it can do, and the system lets it: by the names of /proc/cpuinfo.
//
// Compiled for every processor of the architecture. /proc/cpuinfo itself is not asked for this: an
// emulator shows the host's.
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "export.h"

namespace {

struct Feature {
  const char* name;
  bool has;
};

char* append(char* to, const char* name) {
  while (*name) *to++ = *name++;
  *to++ = ' ';
  return to;
}

}  // namespace

MODELFLEET_EXPORT const char* modelfleet_processor() {
  static char names[512];
  char* end = names;
#if defined(__x86_64__)
  uint32_t a, b, c, d, basic = 0, ebx = 0, ecx = 0, eax1 = 0, extended = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) basic = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    ebx = b;
    ecx = c;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) eax1 = a;
  }
  if (__get_cpuid(0x80000001, &a, &b, &c, &d)) extended = c;
  uint32_t kept = 0, upper;  // registers that the system saves
  if (basic >> 27 & 1) __asm__("xgetbv" : "=a"(kept), "=d"(upper) : "c"(0));
  const bool ymm = (kept & 0x06) == 0x06, zmm = (kept & 0xe6) == 0xe6;
  const Feature features[] = {
      {"fma", ymm && basic >> 12 & 1},          {"movbe", (basic >> 22 & 1) != 0},
      {"f16c", ymm && basic >> 29 & 1},         {"abm", (extended >> 5 & 1) != 0},
      {"bmi1", (ebx >> 3 & 1) != 0},            {"bmi2", (ebx >> 8 & 1) != 0},
      {"avx2", ymm && ebx >> 5 & 1},            {"avx_vnni", ymm && eax1 >> 4 & 1},
      {"avx512f", zmm && ebx >> 16 & 1},        {"avx512dq", zmm && ebx >> 17 & 1},
      {"avx512bw", zmm && ebx >> 30 & 1},       {"avx512vl", zmm && ebx >> 31 & 1},
      {"avx512cd", zmm && ebx >> 28 & 1},       {"avx512_vnni", zmm && ecx >> 11 & 1},
      {"avx512_bf16", zmm && eax1 >> 5 & 1},
  };
#elif defined(__aarch64__)
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  const Feature features[] = {
      {"asimd", (first >> 1 & 1) != 0},  {"asimdhp", (first >> 10 & 1) != 0}, {"asimddp", (first >> 20 & 1) != 0},
      {"i8mm", (second >> 13 & 1) != 0}, {"bf16", (second >> 14 & 1) != 0},
  };
#else
  const Feature features[] = {{"unknown", true}};
#endif
  for (const Feature& feature : features)
    if (feature.has) end = append(end, feature.name);
  if (end != names) --end;
  *end = 0;
  return names;
}
