"""A text by people where there is room for one line: in a table, a listing, a page."""


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, as one line."""
    line = one_line(text)
    return line.split(". ")[0].rstrip(".") + "." if line else ""


def markdown(text: str) -> str:
    """Return a text as one line in which Markdown sees no table, tag or comment."""
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
