"""One file per way of training a fusion with its encoders; the file name is the registration."""
