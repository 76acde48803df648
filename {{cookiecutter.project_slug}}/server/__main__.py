"""The image's command: `python -m server`."""

import logging
import os
import signal
import sys
from importlib import import_module

from server import startup

log = logging.getLogger("server")


def main() -> None:
    """Check the settings, import the service, then serve it with gunicorn.

    Ends with a status other than 0, and the reason as the last line of the log, if it cannot start.
    """
    # The first process of a container has no default for this; gunicorn replaces it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    startup.configure_logging()
    # Imported here, so that a package that is missing or broken is logged as JSON.
    from pydantic import ValidationError

    from server.settings import SERVICE, ServerSettings

    try:
        settings = ServerSettings()
        startup.limit(settings.start_timeout)
        module, name = SERVICE.split(":")
        service = getattr(import_module(module), name)
        startup.limit(0)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for problem in error.errors():
            problems.setdefault(str(problem["loc"][0]).upper(), []).append(problem["msg"])
        for setting, rules in problems.items():
            log.critical("setting %s: %s", setting, ", or ".join(rules))
        sys.exit(1)
    except SystemExit as error:
        log.critical("cannot start: the service ended itself with status %s", error.code)
        sys.exit(1)

    # gunicorn reads this when it is imported, and fails if it is no number.
    os.environ.pop("WEB_CONCURRENCY", None)
    from gunicorn.app.base import BaseApplication

    from server.gunicorn_conf import options
    from server.shutdown import Arbiter

    class Application(BaseApplication):
        def load_config(self) -> None:
            self.settings = settings
            for option, value in options(settings).items():
                self.cfg.set(option, value)  # type: ignore[union-attr]

        def load(self) -> startup.Gate:
            return startup.Gate(service, settings.start_timeout)

    # gunicorn starts itself again with this at SIGUSR2.
    sys.argv = sys.orig_argv[1:]
    Arbiter(Application()).run()


if __name__ == "__main__":
    main()
