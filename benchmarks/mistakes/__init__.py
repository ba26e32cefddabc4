"""Mistakes that people make in losses, each beside its corrected version."""
