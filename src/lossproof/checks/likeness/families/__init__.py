"""Known losses, one file per family. Each file has ``LOSSES``."""
