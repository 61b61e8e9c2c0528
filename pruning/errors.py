"""The exceptions that callers catch. A message says what was expected, what came, what to do."""


class NirvanaError(Exception):
    """A failure whose message is enough for the user; the CLI prints it without a traceback."""


class NirvanaWarning(UserWarning):
    """Something that the user should know; the CLI prints the message alone."""


class MissingExtraError(NirvanaError):
    """An optional part is not installed; the message says which `pip install` brings it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} is not installed. Install it: pip install 'nirvana-deploy[{extra}]'"
        )
        self.extra = extra
