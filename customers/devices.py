"""Addresses for push."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from smartcomm.core.db import execute

# An installed app belongs to whoever logged in last. What is meant for one person
# must not light up on the screen of another.
TAKE_FROM_OTHERS = """
    DELETE FROM customers_device AS device
     USING jsonb_to_recordset(%s::jsonb) AS told(customer_id bigint, token text)
     WHERE md5(device.token) = md5(told.token)
       AND device.token = told.token
       AND device.customer_id <> told.customer_id
"""

REMEMBER = """
    INSERT INTO customers_device
           (customer_id, platform, token, is_valid, created_at, updated_at)
    SELECT customer_id, platform, token, true, %s, %s
      FROM jsonb_to_recordset(%s::jsonb)
           AS told(customer_id bigint, platform text, token text)
     ORDER BY customer_id, md5(token)
        ON CONFLICT (customer_id, md5(token)) DO UPDATE
       SET platform = excluded.platform,
           is_valid = true,
           updated_at = excluded.updated_at
"""


def remember_devices(
    devices: Mapping[int, Mapping[str, str]], *, now: datetime
) -> None:
    """Keep the devices (token → platform) of customers (by primary key).

    Two statements. Other devices of theirs stay; the same token is taken from
    anybody else, and one that was given up as invalid counts again.
    """
    # The last who is told to have a token has it.
    owners = {token: customer for customer, told in devices.items() for token in told}
    rows = [
        {"customer_id": customer, "token": token, "platform": platform}
        for customer, told in devices.items()
        for token, platform in told.items()
        if owners[token] == customer
    ]
    if rows:
        told = msgspec.json.encode(rows).decode()
        execute(TAKE_FROM_OTHERS, [told])
        execute(REMEMBER, [now, now, told])
