"""The catalogue against the same losses of other libraries: correctness, values, speed."""
