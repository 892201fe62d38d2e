"""Measurements behind docs/benchmarks.md. `make bench` runs them all; ratios are taken within one run."""
