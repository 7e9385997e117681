"""Settings for the tests: their own servers and data, and nothing slow or outgoing."""

import hashlib
import os

os.environ.setdefault("SECRET_KEY", "only for tests, where nothing is secret")

from smartcomm import embedded

# Their own data directory, inside the one that was asked for. Processes that a test
# starts inherit it, and must not go one deeper.
if embedded.data_directory().name != "test":
    os.environ["SMARTCOMM_DATA"] = str(embedded.data_directory() / "test")

from smartcomm.settings import *


def migrations_digest() -> str:
    """Tells databases apart that were made by different migrations."""
    digest = hashlib.sha256()
    for path in sorted(BASE_DIR.glob("*/migrations/*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


# A database is used again as long as no migration changes: an edited one has another
# name, and so starts from nothing.
DATABASES["default"]["TEST"] = {"NAME": f"test_smartcomm_{migrations_digest()}"}

# Tests are refused a lot. Those of this limit set one.
API_FAILURES_PER_SECOND = 0

# One machine, one clock; and a test that counts queries counts the same each time.
CLOCK_OF_DATABASE = False

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

# Pages are tested without collecting static files first.
STORAGES = {
    **STORAGES,
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
