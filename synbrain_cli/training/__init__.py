"""Training recipes' common parts: examples, stages, distribution, bundle, adaptation strategies."""
