"""The image's command: `python -m app`."""

import logging
import os
import signal
import sys
from importlib import import_module

from app import logs


def main() -> None:
    """Check that the service can start, then serve it with gunicorn, as gunicorn.conf.py says.

    Ends with status 1, and the reason as the last line of the log, if it cannot.
    """
    # A first process has no default for this; gunicorn replaces it when it is ready.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logs.configure()
    # Imported here, where a package that is missing or broken is logged too.
    from pydantic import ValidationError

    from app.settings import ServerSettings, Settings

    try:
        Settings()
        # Before gunicorn is imported, which reads WEB_CONCURRENCY and stumbles over what is no number.
        if ServerSettings().web_concurrency is None:
            os.environ.pop("WEB_CONCURRENCY", None)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for problem in error.errors():
            problems.setdefault(str(problem["loc"][0]).upper(), []).append(problem["msg"])
        for name, rules in problems.items():
            logging.getLogger("app").critical("setting %s: %s", name, ", or ".join(rules))
        sys.exit(1)

    # Before gunicorn, which would print why it failed as plain text.
    import_module("app.main")
    from gunicorn.app.wsgiapp import run
    from gunicorn.errors import HaltServer

    from app.server import say_why

    sys.argv = ["gunicorn", "app.main:app"]
    try:
        run()
    except HaltServer as error:
        # A second worker failed while gunicorn was ending because of the first, and cut that short.
        say_why()
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
