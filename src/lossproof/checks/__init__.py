"""Find out whether a loss is right, and if not, what is wrong with it."""
