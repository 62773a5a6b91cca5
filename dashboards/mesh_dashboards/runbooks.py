"""The pages on alerts: what each means, how to look, what to do."""

from __future__ import annotations

from importlib.resources import files

_FOLDER = files(__package__) / "runbooks"


def runbooks() -> list[str]:
    """The names of all pages, which are those of the alerts."""
    pages = (file.name for file in _FOLDER.iterdir() if file.name.endswith(".md"))
    return sorted(page.removesuffix(".md") for page in pages)


def runbook(name: str) -> str:
    """A page in Markdown.

    Raises:
        KeyError: There is none of this name.
    """
    if name not in runbooks():
        raise KeyError(name)
    return (_FOLDER / f"{name}.md").read_text(encoding="utf-8")
