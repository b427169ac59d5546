"""What a finished run becomes: bundles for other engines, and policies that people change."""
