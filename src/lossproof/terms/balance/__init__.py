"""Balancers: weights of the terms of a composite loss, from their values or their gradients."""
