"""One file = one experiment; the header says command, hardware, time and expected numbers."""
