"""Which system this is: asked here alone, so that a test can say that it is another one."""

import os
import sys

WINDOWS = os.name == "nt"
MACOS = sys.platform == "darwin"
# Longer paths are refused by Windows unless "long paths" are enabled (Microsoft: "Maximum Path
# Length Limitation"; 260 with the final zero, 12 characters less for a folder).
WINDOWS_PATH = 247
