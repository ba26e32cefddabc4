"""Mistakes that people make in losses, each beside its corrected version.

They were written before, and apart from, the rules that are measured on them.
"""
