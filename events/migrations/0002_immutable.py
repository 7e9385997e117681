"""What happened is never changed: the database itself refuses.

There are two exceptions, and each says so for its own transaction.

Erasing a customer: `SET LOCAL smartcomm.erasing = 'on'`.

Merging two customers: `SET LOCAL smartcomm.merging = '17 4'` (from 17 to 4, by primary
key). It may take an event of the one to the other, and nothing else of the event may
change; only where the other has another event under the same ID, the moved one gets an
ID that begins alike. It may remove an event that the other has already, the same in
name, time and context.

`smartcomm_instant` reads a date or a time out of a context without ever failing:
what is not a date is NULL. PostgreSQL 15 has no pg_input_is_valid.
"""

from django.db import migrations

REFUSE_CHANGES = """
CREATE FUNCTION smartcomm_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    former bigint;
    kept bigint;
    moved record;
BEGIN
    IF current_setting('smartcomm.erasing', true) = 'on' THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    IF TG_TABLE_NAME = 'events_event'
       AND coalesce(current_setting('smartcomm.merging', true), '') <> '' THEN
        former := split_part(current_setting('smartcomm.merging'), ' ', 1)::bigint;
        kept := split_part(current_setting('smartcomm.merging'), ' ', 2)::bigint;
        IF TG_OP = 'UPDATE' AND OLD.customer_id = former AND NEW.customer_id = kept THEN
            moved := NEW;
            moved.customer_id := OLD.customer_id;
            IF NEW.external_id <> OLD.external_id
               AND starts_with(NEW.external_id, left(OLD.external_id, 70))
               AND EXISTS (
                   SELECT FROM events_event AS other
                    WHERE other.customer_id = kept
                      AND other.source_id = OLD.source_id
                      AND other.external_id = OLD.external_id) THEN
                moved.external_id := OLD.external_id;
            END IF;
            IF moved IS NOT DISTINCT FROM OLD THEN
                RETURN NEW;
            END IF;
        ELSIF TG_OP = 'DELETE' AND OLD.customer_id = former AND EXISTS (
                   SELECT FROM events_event AS other
                    WHERE other.customer_id = kept
                      AND other.source_id = OLD.source_id
                      AND other.external_id = OLD.external_id
                      AND other.type_id = OLD.type_id
                      AND other.occurred_at = OLD.occurred_at
                      AND other.context = OLD.context) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'Events never change: % on % is refused.', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER events_never_change BEFORE UPDATE OR DELETE ON events_event
    FOR EACH ROW EXECUTE FUNCTION smartcomm_refuse_change();
CREATE TRIGGER system_events_never_change BEFORE UPDATE OR DELETE ON events_systemevent
    FOR EACH ROW EXECUTE FUNCTION smartcomm_refuse_change();
"""
ALLOW_CHANGES = """
DROP TRIGGER events_never_change ON events_event;
DROP TRIGGER system_events_never_change ON events_systemevent;
DROP FUNCTION smartcomm_refuse_change();
"""

READ_INSTANT = r"""
CREATE FUNCTION smartcomm_instant(value text, zone text) RETURNS timestamptz
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF value ~ '^\d{4}-\d{2}-\d{2}$' THEN
        RETURN value::timestamp AT TIME ZONE zone;
    ELSIF value ~ '^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?$' THEN
        RETURN value::timestamp AT TIME ZONE zone;
    ELSIF value ~ '^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:?\d{2})$' THEN
        RETURN value::timestamptz;
    END IF;
    RETURN NULL;
-- The whole class: fields out of range, no such format, an offset of +99:99.
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("events", "0001_initial")]
    operations = [
        migrations.RunSQL(REFUSE_CHANGES, ALLOW_CHANGES),
        migrations.RunSQL(READ_INSTANT, "DROP FUNCTION smartcomm_instant(text, text);"),
    ]
