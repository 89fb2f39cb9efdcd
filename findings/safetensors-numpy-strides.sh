#!/usr/bin/env bash
# safetensors 0.8.0 saves a transposed, sliced or Fortran-ordered numpy array with its numbers in another order, without
# a word; 0.7.0 saved the array.
#
# Versions: safetensors 0.8.0 (SAFETENSORS=... tries another), 0.7.0 for comparison; numpy 2.4.6.
# Input:    safetensors.numpy.save_file of views that numpy makes everywhere (w.T, w[:, ::2], np.asfortranarray(w),
#           w[::-1]), and load_file of the result.
# Expected: what was saved, as up to 0.7.0; or an error, as safetensors.torch raises for the same ("non contiguous").
# Instead:  the bytes that begin at the view's address are written as if it were contiguous. The file is valid, shape and
#           type are right, and the numbers are others. What lies in front of or behind the view can be among them:
#           of w[::-1] all but the first row is memory that does not belong to the array.
#           The docstring says "Tensors need to be contiguous and dense", as it did when others worked.
# Matters:  checkpoints are transposed where they are converted (JAX and Flax kernels, GPT-2's Conv1D, LoRA's A and B): the
#           model loads everywhere and talks nonsense, and the checksum of the file is right.
#
# Seen:
#   safetensors 0.7.0  contiguous same   w.T same   w[:, ::2] same   asfortranarray same   w[::-1] same
#   safetensors 0.8.0  contiguous same   w.T OTHER  w[:, ::2] OTHER  asfortranarray OTHER  w[::-1] OTHER
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
new=${SAFETENSORS:-0.8.0}

cat >"$work/probe.py" <<'PY'
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

# One row of a larger array, so that what is read before or behind the view is memory of ours.
around = np.arange(100 * 8 * 6, dtype=np.float32).reshape(100, 8, 6)
w = around[50]
views = {
    "contiguous": w,
    "w.T": w.T,
    "w[:, ::2]": w[:, ::2],
    "asfortranarray": np.asfortranarray(w),
    "w[::-1]": w[::-1],
}
seen = []
for name, view in views.items():
    save_file({"weight": view}, sys.argv[1])
    found = load_file(sys.argv[1])["weight"]
    assert found.shape == view.shape and found.dtype == view.dtype
    seen.append(f"{name} {'same ' if np.array_equal(found, view) else 'OTHER'}")
print("  ".join(seen))
PY

for version in 0.7.0 "$new"; do
    python3 -m venv "$work/$version"
    VIRTUAL_ENV=$work/$version PATH=$work/$version/bin:$PATH \
        ${PIP:-pip} install --quiet "safetensors==$version" numpy==2.4.6 || { echo "INSTALLATION FAILED"; exit 2; }
    echo "safetensors $version  $("$work/$version/bin/python" "$work/probe.py" "$work/x.safetensors")" | tee -a "$work/seen"
done
old=$(sed -n 1p "$work/seen") now=$(sed -n 2p "$work/seen")
if [[ $old != *OTHER* && $now == *"contiguous same"* && $now == *"w.T OTHER"*"2] OTHER"*"array OTHER"*"1] OTHER"* ]]; then
    echo "AS DESCRIBED"
else
    echo "CHANGED"
    exit 1
fi
