"""Settings. Everything that differs between installations comes from the environment.

The README lists the variables. Each has a default that works on one machine.
"""

from pathlib import Path
from urllib.parse import unquote

import environ
from django.templatetags.static import static
from django.urls import reverse_lazy

from smartcomm import embedded
from smartcomm.core.logs import configure_logging

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

DATA_DIR = embedded.data_directory()
DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="") or embedded.secret_key()
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["*"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "anymail",
    "django_prometheus",
    "smartcomm.core",
    "customers",
    "events",
    "segments",
    "messaging",
    "campaigns",
    "smartcomm.site.apps.SiteConfig",
]

# For an installation behind a proxy that speaks HTTPS and says so in this header.
HTTPS = env.bool("HTTPS", default=False)
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_REDIRECT_EXEMPT = ["^healthz$"]
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
# How many proxies of ours stand in front: the address of a caller is then what the
# outermost of them says in X-Forwarded-For. See smartcomm/core/addresses.py.
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)
# What else lives under the domain, and whether it speaks HTTPS, is not ours to say.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "smartcomm.urls"
WSGI_APPLICATION = "smartcomm.wsgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASE = env.db_url_config(embedded.database_url())
DATABASES = {
    "default": {
        **DATABASE,
        # The directory of a socket is percent-encoded in an address.
        "HOST": unquote(DATABASE.get("HOST", "")),
        # Connections that a restart of the database cut are replaced before use.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            **DATABASE.get("OPTIONS", {}),
            "pool": {
                "min_size": 1,
                "max_size": env.int("DATABASE_POOL", default=20),
                "timeout": 10,
            },
            "application_name": "smartcomm",
        },
    }
}
# A copy of the database that only answers questions: rules are tried out there.
if DATABASE_REPLICA_URL := env.str("DATABASE_REPLICA_URL", default=""):
    DATABASE_REPLICA = env.db_url_config(DATABASE_REPLICA_URL)
    DATABASES["replica"] = {
        **DATABASES["default"],
        **DATABASE_REPLICA,
        "HOST": unquote(DATABASE_REPLICA.get("HOST", "")),
        "OPTIONS": {
            **DATABASES["default"]["OPTIONS"],
            **DATABASE_REPLICA.get("OPTIONS", {}),
        },
        "TEST": {"MIRROR": "default"},
    }
# Statements of the hot path are prepared once for each connection. Not all poolers
# between us and PostgreSQL let that pass.
DATABASE_PREPARES = env.bool("DATABASE_PREPARES", default=True)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = embedded.redis_url()
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        # A Valkey that hangs must not hold up a request for long.
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    }
}

# Sessions live in the database, so that a flushed cache logs nobody out.
SESSION_ENGINE = "django.contrib.sessions.backends.db"

PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = reverse_lazy("admin:login")
LOGIN_REDIRECT_URL = reverse_lazy("admin:index")

LANGUAGE_CODE = "en"
USE_I18N = True
FORMAT_MODULE_PATH = "smartcomm.formats"
USE_TZ = True
# Calendar dates in rules, and every time shown to staff, are of this zone.
TIME_ZONE = env.str("TIME_ZONE", default="UTC")

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedStaticFilesStorage",
    },
}

DATA_UPLOAD_MAX_MEMORY_SIZE = 5 * 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000
# A file to import, uploaded in the admin: it goes to the disk of the data directory.
IMPORT_MAX_MIB = env.int("IMPORT_MAX_MIB", default=2_048)

# E-mail. Without EMAIL_URL messages go to the local outbox, which the admin shows.
EMAIL_URL = env.str("EMAIL_URL", default="")
if EMAIL_URL:
    vars().update(env.email_url_config(EMAIL_URL))
EMAIL_TIMEOUT = 20
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="news@example.com")
# The way out of each channel; those not named go to the local outbox.
MESSAGE_PROVIDERS = (
    {"email": "messaging.channels.email.DjangoEmail"} if EMAIL_URL else {}
)

# Calls of campaigns to systems outside; see docs/webhooks-out.md. The hosts named here
# may be in the own network, and may do without HTTPS.
WEBHOOK_INTERNAL_HOSTS = [
    host.strip().lower() for host in env.list("WEBHOOK_INTERNAL_HOSTS", default=[])
]
# Signs them; empty: follows from SECRET_KEY. Several, with commas, all sign.
WEBHOOK_SECRET = env.str("WEBHOOK_SECRET", default="")
# How many a worker makes at the same time, and how many of all a receiver gets.
WEBHOOK_CALLS_AT_ONCE = env.int("WEBHOOK_CALLS_AT_ONCE", default=16)
WEBHOOK_CALLS_PER_RECEIVER = env.int("WEBHOOK_CALLS_PER_RECEIVER", default=4)

# Whether somebody else must publish what one has drawn; see docs/campaign-versions.md.
PUBLISHING_NEEDS_TWO = env.bool("PUBLISHING_NEEDS_TWO", default=False)

# How long the exact count of a rule may take, and how many are made at once.
SEGMENT_COUNT_SECONDS = env.int("SEGMENT_COUNT_SECONDS", default=60)
SEGMENT_COUNTS_AT_ONCE = env.int("SEGMENT_COUNTS_AT_ONCE", default=2)

# All processes go by the clock of the database; see smartcomm.core.clock.
CLOCK_OF_DATABASE = True

# Celery carries wake-ups only, so nothing of it is kept or repeated.
CELERY_BROKER_URL = embedded.broker_url()
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_PUBLISH_RETRY = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "visibility_timeout": 3600,
}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_ROUTES = {
    "campaigns.tasks.*": {"queue": "campaigns"},
    "campaigns.tasks.walk_broadcasts": {"queue": "broadcasts"},
    "campaigns.tasks.rehearse": {"queue": "imports"},
    "campaigns.tasks.check": {"queue": "imports"},
    "campaigns.tasks.measure": {"queue": "imports"},
    "campaigns.tasks.count_reports": {"queue": "imports"},
    "campaigns.tasks.send_webhooks": {"queue": "webhooks"},
    "messaging.tasks.*": {"queue": "messages"},
    "segments.tasks.*": {"queue": "segments"},
    "events.tasks.*": {"queue": "campaigns"},
    "events.tasks.run_imports": {"queue": "imports"},
}
CELERY_TASK_DEFAULT_QUEUE = "campaigns"
TICK_SECONDS = 5
# A tick that nobody took is forgotten, lest they pile up. Whether it is too old, a
# worker tells by its own clock, which may differ from that of beat by almost so much.
TICK_KEPT_SECONDS = 150
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "celerybeat")
CELERY_BEAT_SCHEDULE = {
    name: {
        "task": task,
        "schedule": every,
        "options": {"expires": max(every, TICK_KEPT_SECONDS)},
    }
    for name, task, every in [
        ("campaigns", "campaigns.tasks.tick", TICK_SECONDS),
        ("broadcasts", "campaigns.tasks.walk_broadcasts", TICK_SECONDS),
        ("messages", "messaging.tasks.send_messages", TICK_SECONDS),
        ("webhooks", "campaigns.tasks.send_webhooks", TICK_SECONDS),
        ("interrupted", "messaging.tasks.close_interrupted", 60),
        ("segments", "segments.tasks.keep", 2),
        ("segment checks", "segments.tasks.check", 600),
        ("old keys", "events.tasks.forget_old_keys", 3600),
        ("replays", "events.tasks.advance_replays", TICK_SECONDS),
        ("imports", "events.tasks.run_imports", 2 * TICK_SECONDS),
        ("campaign checks", "campaigns.tasks.check", 60),
        ("campaign goals", "campaigns.tasks.measure", 60),
        ("campaign reports", "campaigns.tasks.count_reports", 2 * TICK_SECONDS),
        ("rehearsals", "campaigns.tasks.rehearse", TICK_SECONDS),
    ]
}

# Where `manage.py consume_events` finds events in a queue, and how it reads them; see
# docs/rabbitmq.md.
AMQP_URL = env.str("AMQP_URL", default="")
AMQP_QUEUE = env.str("AMQP_QUEUE", default="") or "smartcomm.events"
AMQP_SOURCE = env.str("AMQP_SOURCE", default="") or "RabbitMQ"
AMQP_KIND = env.str("AMQP_KIND", default="") or "customer"
AMQP_PREFETCH = env.int("AMQP_PREFETCH", default=2_000)
AMQP_BATCH = env.int("AMQP_BATCH", default=1_000)
AMQP_BATCH_MS = env.int("AMQP_BATCH_MS", default=50)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["events.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["smartcomm.core.scopes.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["smartcomm.core.bodies.MsgspecParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "smartcomm.core.problems.problem_details",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Smart Communications",
    "DESCRIPTION": "Send customers and events; read segments, campaigns and messages. "
    "Show a key with every request: `Authorization: Bearer <key>`. A refusal is told "
    "as `application/problem+json`: a code, a sentence, and the places that are wrong.",
    "TAGS": [
        {"name": "Events", "description": "What happened, and what can happen."},
        {"name": "Customers", "description": "Who they are, and what they did."},
        {"name": "Segments", "description": "Who matches a rule."},
        {"name": "Campaigns", "description": "What happens to whom, and when."},
        {"name": "Messages", "description": "What was sent to whom, and why not."},
    ],
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "OAS_VERSION": "3.1.0",
    "POSTPROCESSING_HOOKS": ["smartcomm.core.openapi.require_bodies"],
}
# How many requests a source may make in a second; 0 for no limit.
API_REQUESTS_PER_SECOND = env.int("API_REQUESTS_PER_SECOND", default=5_000)
# How many requests without a key that works are answered for one address in a second.
API_FAILURES_PER_SECOND = env.int("API_FAILURES_PER_SECOND", default=20)

UNFOLD = {
    "SITE_TITLE": "Smart Communications",
    "SITE_HEADER": "Smart Communications",
    "SITE_SYMBOL": "campaign",
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "smartcomm.site.dashboard.dashboard",
    "STYLES": [lambda request: static("site/site.css")],
    "SCRIPTS": [lambda request: static("site/site.js")],
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda request: static("site/favicon.svg"),
        },
    ],
    "COMMAND": {"search_callback": "smartcomm.site.find.customers"},
    "SIDEBAR": {
        "show_search": True,
        "command_search": True,
        "show_all_applications": False,
        "navigation": "smartcomm.site.navigation.navigation",
    },
}

LOGGING_CONFIG = None
configure_logging(level=env.str("LOG_LEVEL", default="INFO"), plain=DEBUG)
