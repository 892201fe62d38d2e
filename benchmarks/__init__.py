"""Measurements behind docs/reference/benchmarks.md. `make bench` runs them all; ratios are taken within one run."""
