"""The studies of the room `terms`: what its engine costs, and what its balancers reach."""
