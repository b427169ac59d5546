"""A file per step of a run: what it does, from which settings, and the files it leaves."""
