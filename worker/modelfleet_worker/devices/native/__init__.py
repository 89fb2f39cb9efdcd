"""Compiled kernels for processors with AVX-512: one step of a model in one call.

Everything here has a twin in torch, which serves where there is no compiler, another processor or
another type: `devices.torch` and `quantization.kernels`.
"""
