"""Run a command with the variables of .env, which Compose reads in the same way.

    python scripts/with_env.py COMMAND...

Every character of a value is literal. The environment overrides the file. Of several lines for one
variable, the last counts.
"""

import os
import re
import sys
from pathlib import Path

LINE = re.compile(r"[ \t]*([A-Za-z_][^=]*)=(.*?)\r?")


def variables(text: str) -> dict[str, str]:
    """Return the variables in the text of a .env file."""
    return {found[1]: found[2] for line in text.split("\n") if (found := LINE.fullmatch(line))}


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    file = Path(".env")
    text = file.read_text("utf-8-sig", "surrogateescape") if file.exists() else ""
    os.execvpe(sys.argv[1], sys.argv[1:], variables(text) | os.environ)  # noqa: S606 - the caller's command
