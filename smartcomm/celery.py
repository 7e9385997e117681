"""The Celery application. Tasks are doorbells: the work is rows in PostgreSQL."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smartcomm.settings")

app = Celery("smartcomm")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
