// What library.py calls; everything else is hidden, since a process may load several builds.
#pragma once

#define MODELFLEET_EXPORT extern "C" __attribute__((visibility("default")))
