"""Reads the words that a part carries: text that stands on a picture."""
