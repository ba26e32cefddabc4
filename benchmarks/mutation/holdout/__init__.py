"""Right, hand-written backwards that were put aside by lot while the causes were named."""
