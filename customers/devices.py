"""Addresses for push."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from smartcomm.core.db import execute

#: How many a customer has at most. Nobody carries so many; an app that makes a new
#: token whenever it starts would otherwise leave thousands.
MAX_DEVICES = 50

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

REMOVE = """
    DELETE FROM customers_device AS device
     USING jsonb_to_recordset(%s::jsonb) AS told(customer_id bigint, token text)
     WHERE device.customer_id = told.customer_id
       AND md5(device.token) = md5(told.token)
       AND device.token = told.token
"""

# Those that were not heard of for longest.
FORGET_SURPLUS = """
    DELETE FROM customers_device WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (
                       PARTITION BY customer_id
                           ORDER BY updated_at DESC, id DESC) AS number
              FROM customers_device WHERE customer_id = ANY(%s)
        ) AS numbered WHERE number > %s)
"""


def remember_devices(
    devices: Mapping[int, Mapping[str, str | None]], *, now: datetime
) -> None:
    """Keep the devices (token → platform, None: gone) of customers (by primary key).

    Up to four statements. Other devices of theirs stay; the same token is taken from
    anybody else, and one that was given up as invalid counts again. Of more than
    MAX_DEVICES those told last stay.
    """
    # The last who is told to have a token has it.
    owners = {
        token: customer
        for customer, told in devices.items()
        for token, platform in told.items()
        if platform is not None
    }
    rows = [
        {"customer_id": customer, "token": token, "platform": platform}
        for customer, told in devices.items()
        for token, platform in told.items()
        if platform is not None and owners[token] == customer
    ]
    gone = [
        {"customer_id": customer, "token": token}
        for customer, told in devices.items()
        for token, platform in told.items()
        if platform is None
    ]
    if gone:
        execute(REMOVE, [msgspec.json.encode(gone).decode()])
    if rows:
        told = msgspec.json.encode(rows).decode()
        execute(TAKE_FROM_OTHERS, [told])
        execute(REMEMBER, [now, now, told])
        forget_surplus(owners.values())


def forget_surplus(customers: Iterable[int]) -> None:
    """Leave each of these customers the MAX_DEVICES that were told last."""
    execute(FORGET_SURPLUS, [sorted(set(customers)), MAX_DEVICES])
