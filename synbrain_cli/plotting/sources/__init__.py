"""Sources of figures: synthesized responses, recorded trials and evaluations on disk."""
