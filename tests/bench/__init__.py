"""Benchmarks: they measure, they are no tests. ``tox run -e bench -- NAME --out FILE [--quick]``."""
