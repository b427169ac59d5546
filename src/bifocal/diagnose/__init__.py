"""Why a fusion does what it does: which modality carries it, and whether the modalities interact."""
