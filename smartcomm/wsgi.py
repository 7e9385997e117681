"""The door for the web server."""

import multiprocessing
import os
import signal

from django.core.wsgi import get_wsgi_application

from smartcomm.embedded.processes import die_with_parent

# Granian's workers would outlive a server that was killed, and hold its port.
if multiprocessing.parent_process():
    die_with_parent(os.getppid(), signal.SIGKILL)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smartcomm.settings")

django = get_wsgi_application()

from events.door import Door  # noqa: E402  (once Django is set up)

application = Door(django)
