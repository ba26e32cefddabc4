"""A report as text, JSON or a picture."""
