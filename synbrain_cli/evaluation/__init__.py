"""Scores on test images: the test set, scores and their bootstrap, calibration, comparison."""
