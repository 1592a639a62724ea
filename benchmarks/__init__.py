"""Measurements: latency of engines and of the stages around them."""
