from django.apps import AppConfig


class SiteConfig(AppConfig):
    """The back office as a whole: navigation, dashboard, health, start-up commands."""

    name = "smartcomm.site"
    label = "smartcomm_site"
