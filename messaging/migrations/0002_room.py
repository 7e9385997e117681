"""Room on the pages of messages.

A message is written four times until it is sent. With room beside it the new row stays
on its page, and a lease needs no new entries in the indexes.
"""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("messaging", "0001_initial")]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE messaging_message SET (fillfactor = 50)",
            "ALTER TABLE messaging_message RESET (fillfactor)",
        )
    ]
