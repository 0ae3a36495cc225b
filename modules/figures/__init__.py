"""Figures, GIFs and tables of runs and of data sets."""

import os

# Figures are files, drawn the same everywhere. A notebook's backend is none of theirs, and
# matplotlib ends with an error, as it is imported, if it cannot find that backend.
os.environ["MPLBACKEND"] = "agg"
