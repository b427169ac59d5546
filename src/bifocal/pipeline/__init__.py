"""The story of a run, step by step, from a source to its report."""
