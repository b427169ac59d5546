"""The processes that decode and decide, and how posts reach them."""
