"""One module a library: its losses (``ENTRIES``), each as its documentation uses it."""
