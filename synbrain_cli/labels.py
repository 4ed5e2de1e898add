"""Names that become files and folders."""
