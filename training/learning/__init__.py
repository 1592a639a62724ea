"""How a network learns: what becomes of samples, and the steps of a run."""
