"""The errors that a user can put right, printed without a traceback; and how texts are shown."""

from __future__ import annotations


class UserError(ValueError):
    """Something that the user named cannot be used.

    The message is a paragraph that names the thing and its value, says what is valid and what to
    do. Anything else that is raised is a mistake of the program.
    """


class ConfigError(UserError):
    """A config key, a config file or a command-line argument that cannot be used."""


class SourceError(UserError):
    """A dataset name, file or annotation that cannot be used."""


class FileError(UserError):
    """A file that cannot be written."""


class FolderInUseError(UserError):
    """A folder that another process writes to."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read."""


class UntrustedFileError(UserError):
    """A file that holds more than numbers, texts and plain containers."""


def printable(text: str) -> str:
    """A text for a terminal: what would steer it, as file names can, becomes an escape.

    Line breaks, tabs and all characters that are shown stay as they are.
    """
    return "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1]
        for character in text
    )


def counted(number: int, noun: str) -> str:
    """A number of things for a message: "1 image", "2,000 images", "3 boxes"."""
    ending = "" if number == 1 else "es" if noun.endswith("x") else "s"
    return f"{number:,} {noun}{ending}"
