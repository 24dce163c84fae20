"""Puts this folder's helpers (``planted``) in reach of the tests below it."""
