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
    # The first process of a container ignores SIGTERM without a handler; gunicorn sets its own later.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    startup.configure_logging()
    # Imported here, so that a package that is missing or broken is logged as JSON.
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from server.settings import SERVICE, ServerSettings

    try:
        settings = ServerSettings()
        startup.limit_start(settings.start_timeout)
        module, name = SERVICE.split(":")
        service = getattr(import_module(module), name)
        startup.limit_start(0)
    except ValidationError as error:
        for problem in error.errors():  # a validator of the whole model gives no name
            name = "".join(f" {field}" for field in problem["loc"][:1]).upper()
            log.critical("setting%s: %s", name, problem["msg"])
        sys.exit(1)
    except SettingsError as error:  # a list or a dictionary, if the message quotes a field
        name = str(error).partition('field "')[2].partition('"')[0].upper()
        log.critical("setting %s", f"{name}: Input should be JSON" if name else error)
        sys.exit(1)
    except SystemExit as error:
        log.critical("cannot start: the service ended itself with status %s", error.code)
        sys.exit(1)

    # gunicorn reads this when it is imported, and fails if it is empty.
    if settings.web_concurrency is None:
        os.environ.pop("WEB_CONCURRENCY", None)
    from server.gunicorn_conf import Application
    from server.shutdown import Arbiter

    # gunicorn starts itself again with this at SIGUSR2.
    sys.argv = sys.orig_argv[1:]
    arbiter = Arbiter(Application(startup.Gate(service, settings.start_timeout), settings))
    # gunicorn's lines go to the log of the service.
    logging.getLogger("gunicorn.error").propagate = True
    arbiter.run()


if __name__ == "__main__":
    main()
