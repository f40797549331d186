"""Benchmarks against a real broker: ``make bench``. Every figure is a ratio in one run: machines are noisy."""
