"""Experiments on a modelled brain: what is shown to it, and how its responses are analysed."""
