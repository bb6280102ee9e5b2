"""The exceptions that mean "what was given cannot be used"."""


class UserError(ValueError):
    """The user's input cannot be used as given.

    The message is one line in the user's words: what was given, where, and what is allowed. The
    command line prints it without a traceback and exits with code 2.
    """


class UnusablePlace(UserError):
    """The store or the machine cannot be used: full, not writable, a package not installed.

    No other stage would do better, so that a run stops where other errors cost only what needs the
    stage that met them.
    """
