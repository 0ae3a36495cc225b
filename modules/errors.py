"""Errors that a user can mend, told apart from faults of the program."""


class UserError(Exception):
    """A mistake in the command line, the data or a file.

    The scripts print it as one line ``error: <message>`` and exit with status 2, so the message
    names the file or option and says what to do. A message may have further lines only where it
    lists several faults of one data set.
    """
