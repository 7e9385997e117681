"""What the search of the side bar finds beside pages: customers."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import reverse
from unfold.dataclasses import SearchResult

from customers.models import Customer
from customers.search import find

MOST = 10


def customers(request: HttpRequest, text: str) -> list[SearchResult]:
    """The first few customers whose ID, contact or name begins with the text."""
    if len(text.strip()) < 2 or not request.user.has_perm("customers.view_customer"):
        return []
    return [
        SearchResult(
            title=str(customer),
            description=f"Customer {customer.external_id}",
            link=reverse("admin:customers_customer_change", args=[customer.pk]),
            icon="person",
        )
        for customer in find(Customer.objects.all(), text)[:MOST]
    ]
