"""The losses of well-known libraries: is anything said against them, and how long does it take?"""
