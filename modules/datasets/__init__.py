"""Data sets: the demo, a user's own video, image files, and their inspection."""
