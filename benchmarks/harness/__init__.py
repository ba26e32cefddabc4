"""How everything is measured here: methods on cases, in turns, each in a process of its own."""
