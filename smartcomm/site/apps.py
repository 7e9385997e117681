from django.apps import AppConfig

# Loaded with the project, so that every task belongs to this Celery application.
from smartcomm.celery import app as celery_app

__all__ = ["SiteConfig", "celery_app"]


class SiteConfig(AppConfig):
    """The back office as a whole: navigation, dashboard, health, start-up commands."""

    name = "smartcomm.site"
    label = "smartcomm_site"

    def ready(self) -> None:
        from segments import evidence
        from smartcomm.site import explaining, reach

        evidence.introduce(reach.why, explaining.messages)
