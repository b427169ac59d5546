"""Doors of other services' shapes, for those who come from there; a file each."""
