"""One recipe per command; each returns a result object that the command prints."""
