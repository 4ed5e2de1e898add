"""Networks, their training, and the distribution of responses; no files and no printing."""
