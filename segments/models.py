"""Saved rules."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models


class Segment(models.Model):
    """A saved rule, with how many customers met it when that was last counted."""

    class Status(models.TextChoices):
        NEW = "new", "Not counted yet"
        FRESH = "fresh", "Counted"
        FAILED = "failed", "Failed"

    name = models.CharField(max_length=150, unique=True)
    description = models.TextField(blank=True)
    rule = models.JSONField()
    status = models.CharField(
        max_length=8, choices=Status, default=Status.NEW, editable=False
    )
    count = models.PositiveBigIntegerField(null=True, editable=False)
    counted_at = models.DateTimeField(null=True, editable=False)
    tried_at = models.DateTimeField(
        null=True, editable=False, help_text="When counting was last begun."
    )
    took_ms = models.PositiveIntegerField("took (ms)", null=True, editable=False)
    error = models.TextField(blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        db_constraint=False,
        related_name="+",
    )

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name
