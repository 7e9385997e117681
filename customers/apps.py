from django.apps import AppConfig


class CustomersConfig(AppConfig):
    name = "customers"

    def ready(self) -> None:
        from customers import merging
        from customers.models import Consent, ConsentChange, Device, FormerId

        merging.introduce(merging.move_own, Consent, ConsentChange, Device, FormerId)
