"""Compiled kernels for AVX2, AVX-512 and ARM: one step of a model in one call.

All of it exists in torch, too, for machines without a compiler, for other processors and types:
`devices.torch` and `quantization.kernels`.
"""
