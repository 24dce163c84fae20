"""One file = one router; the name of a router is the name of its file."""
