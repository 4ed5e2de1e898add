"""Files ↔ arrays and records; no networks."""
