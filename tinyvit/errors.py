"""The error for what a user can cause and mend."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong and what to do."""
