"""Figures, GIFs and tables, drawn from the files that runs write."""
