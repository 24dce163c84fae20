"""What people run: the `cascade` command, stages, plots and the report."""
