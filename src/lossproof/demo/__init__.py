"""Demo: the five questions that everyone has who writes a loss, answered by running them."""
