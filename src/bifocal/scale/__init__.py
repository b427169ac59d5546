"""Units of work over the cores of a machine."""
