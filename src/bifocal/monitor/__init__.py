"""A run in service, watched without labels and with them."""
