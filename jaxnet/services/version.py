"""The version of jaxnet."""

from importlib import metadata


def version() -> str:
    """Return the version of the installed distribution; "unknown" for a folder without one."""
    try:
        return metadata.version("jaxnet-toolkit")
    except metadata.PackageNotFoundError:
        return "unknown"
