from django.apps import AppConfig


class CoreConfig(AppConfig):
    name = "smartcomm.core"
    label = "core"
