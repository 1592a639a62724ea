"""Engines: a batch of crops in, parameters out. `load_engine(path)` picks one by the file's suffix."""

from runtime.engines.base import Engine
from runtime.engines.load import load_engine

__all__ = ["Engine", "load_engine"]
