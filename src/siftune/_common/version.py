"""The version, where everything that writes it into a file can reach it."""

__version__ = "0.1.0"
