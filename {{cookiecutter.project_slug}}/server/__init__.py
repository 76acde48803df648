"""The server; README.md in this folder describes each module."""
