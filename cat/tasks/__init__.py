"""Tasks: one file per task family; the name of a task is the name of its file."""
