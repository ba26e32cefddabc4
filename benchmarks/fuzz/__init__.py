"""Random calls of all that lossproof offers, and what may not come of any."""
