"""Whatever belongs to a customer moves when that customer is merged into another."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.db.models import Model

from customers.merging import moved_models
from customers.models import Customer


def is_of_a_customer(model: type[Model]) -> bool:
    """Whether its rows point to a customer, by a foreign key or by a bare number."""
    return any(
        field.related_model is Customer or field.attname == "customer_id"
        for field in model._meta.concrete_fields
    )


@pytest.mark.parametrize(
    "model",
    [model for model in apps.get_models() if is_of_a_customer(model)],
    ids=lambda model: model._meta.label,
)
def test_every_table_of_customers_has_a_mover(model):
    assert model in moved_models, (
        f"Rows of {model._meta.label} would be left behind when two customers are "
        "merged. Introduce a mover for it in ready() of the app: customers/merging.py."
    )


def test_every_mover_is_for_a_table_of_customers():
    assert all(is_of_a_customer(model) for model in moved_models)
