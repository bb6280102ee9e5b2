"""The one exception that means "the user's input is wrong"."""


class UserError(ValueError):
    """The user's input cannot be used as given.

    The message is one line in the user's words: what was given, where, and what is allowed. The
    command line prints it without a traceback and exits with code 2.
    """
