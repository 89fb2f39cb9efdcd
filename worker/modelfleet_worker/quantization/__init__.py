"""Quantized weights: one canonical form, and what writes, reads and computes with it."""
