"""Data sets: synthetic ones, images, and the import of videos."""
