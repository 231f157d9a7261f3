"""The one error type of the splitter: a line for the user that names the cause and the cure."""

EXIT_BAD_INPUT = 64  # configuration or model files; the same code in every ChatLoop program


class SplitError(Exception):
    """The input cannot be split, or the output cannot be written; str() is one line."""
