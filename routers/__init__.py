"""Deferral routers: who answers, the small model or the large one.

Everything here runs on logs (``Records``) with NumPy alone; no model, no accelerator.
"""
