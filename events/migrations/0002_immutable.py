"""What happened is never changed: the database itself refuses.

Erasing a customer is the one exception; it says so for its own transaction with
`SET LOCAL smartcomm.erasing = 'on'`.

`smartcomm_instant` reads a date or a time out of a context without ever failing:
what is not a date is NULL. PostgreSQL 15 has no pg_input_is_valid.
"""

from django.db import migrations

REFUSE_CHANGES = """
CREATE FUNCTION smartcomm_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('smartcomm.erasing', true) = 'on' THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
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
