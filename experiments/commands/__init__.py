"""One file = one verb of the `cascade` command; its docstring is its help."""
