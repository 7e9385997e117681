"""PostgreSQL and Valkey for installations that bring none of their own.

Both come as wheels, so a clone and Python are all that is needed. `DATABASE_URL` and
`REDIS_URL` replace them. Knows nothing of Django, since the settings ask it for
addresses: `database_url()` and its neighbours tell, and start nothing; `Services`
starts.
"""

from smartcomm.embedded.errors import EmbeddedError
from smartcomm.embedded.places import (
    broker_url,
    data_directory,
    database_url,
    prepare_data_directory,
    redis_url,
    secret_key,
)
from smartcomm.embedded.postgres import programs
from smartcomm.embedded.services import Services

__all__ = [
    "EmbeddedError",
    "Services",
    "broker_url",
    "data_directory",
    "database_url",
    "prepare_data_directory",
    "programs",
    "redis_url",
    "secret_key",
]
