"""Figures, GIFs and tables of runs and of data sets."""
