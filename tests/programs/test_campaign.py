"""The campaign of kills in a short form, and that it would notice a run that differs."""

import re
import subprocess
import sys

import pytest

from tests.support.scripts import REPOSITORY

CAMPAIGN = REPOSITORY / "tests/programs/campaign.py"
# A resumed run that forgets what the optimiser knew.
FORGETFUL = (
    "import runpy, sys\n"
    f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
    "from modules import checkpoint\n"
    "checkpoint.load_optimizer_state = lambda *arguments: None\n"
    f"sys.argv[1:] = ['--kills', '5']\nrunpy.run_path({str(CAMPAIGN)!r}, run_name='__main__')\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status", "last"),
    [
        ((str(CAMPAIGN), "--kills", "12"), 0, r"12 kills: (\d+) of \1 runs equal .*"),
        (("-c", FORGETFUL), 1, r"5 kills: 0 of \d runs equal .*"),
    ],
)
def test_short_campaign(command: tuple[str, ...], status: int, last: str) -> None:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=900)
    assert re.fullmatch(last, done.stdout.splitlines()[-1]), done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (status, "")
