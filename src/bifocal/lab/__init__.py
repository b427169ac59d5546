"""Whether a further modality is worth it: studies of one run's Evidence, and the documents that say so."""
