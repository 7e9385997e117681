"""Messages, suppressed addresses and settings of channels tell the keeper of segments
what changed: see segments/migrations/0002_upkeep.py.

Here, since neither segments nor messaging knows of the other.
"""

from django.db import migrations

# By row: a message is told once for each stage, and the texts of a batch are not copied
# for the sake of four times. The question stands here and not in segments_wanted: a call
# of a function in SQL takes longer than the answer, and every message that is sent asks.
MESSAGES = """
CREATE FUNCTION campaigns_note_message() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM segments_dependency
                WHERE kind = 'customer' AND name = 'message') THEN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO segments_change (customer_id, what)
            VALUES (OLD.customer_id, '{message}');
        END IF;
        IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.customer_id <> OLD.customer_id)
        THEN
            INSERT INTO segments_change (customer_id, what)
            VALUES (NEW.customer_id, '{message}');
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER campaigns_message_insert AFTER INSERT ON messaging_message
    FOR EACH ROW WHEN (NEW.sent_at IS NOT NULL OR NEW.delivered_at IS NOT NULL
        OR NEW.opened_at IS NOT NULL OR NEW.clicked_at IS NOT NULL)
    EXECUTE FUNCTION campaigns_note_message();
CREATE TRIGGER campaigns_message_update
    AFTER UPDATE OF sent_at, delivered_at, opened_at, clicked_at, is_test, customer_id,
        campaign_id, channel ON messaging_message
    FOR EACH ROW WHEN (
        OLD.sent_at IS DISTINCT FROM NEW.sent_at
        OR OLD.delivered_at IS DISTINCT FROM NEW.delivered_at
        OR OLD.opened_at IS DISTINCT FROM NEW.opened_at
        OR OLD.clicked_at IS DISTINCT FROM NEW.clicked_at
        OR OLD.is_test <> NEW.is_test
        OR OLD.customer_id <> NEW.customer_id
        OR OLD.campaign_id IS DISTINCT FROM NEW.campaign_id
        OR OLD.channel <> NEW.channel)
    EXECUTE FUNCTION campaigns_note_message();
CREATE TRIGGER campaigns_message_delete AFTER DELETE ON messaging_message
    FOR EACH ROW EXECUTE FUNCTION campaigns_note_message();
"""
NO_MESSAGES = """
DROP TRIGGER campaigns_message_insert ON messaging_message;
DROP TRIGGER campaigns_message_update ON messaging_message;
DROP TRIGGER campaigns_message_delete ON messaging_message;
DROP FUNCTION campaigns_note_message();
"""

SUPPRESSIONS = """
CREATE FUNCTION campaigns_note_address(on_channel text, told text) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO segments_change (customer_id, what)
    SELECT id, '{suppression}'::varchar[] FROM customers_customer
     WHERE on_channel = 'email' AND upper(email) = upper(told) AND email <> ''
     UNION
    SELECT id, '{suppression}' FROM customers_customer
     WHERE on_channel = 'sms' AND phone = told AND phone <> ''
     UNION
    SELECT customer_id, '{suppression}' FROM customers_device
     WHERE on_channel = 'push' AND md5(token) = md5(told)
$$;
CREATE FUNCTION campaigns_note_suppression() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF segments_wanted('suppression') THEN
        IF TG_OP <> 'INSERT' THEN
            PERFORM campaigns_note_address(OLD.channel, OLD.address);
        END IF;
        IF TG_OP <> 'DELETE' THEN
            PERFORM campaigns_note_address(NEW.channel, NEW.address);
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER campaigns_suppression_changed
    AFTER INSERT OR UPDATE OR DELETE ON messaging_suppression
    FOR EACH ROW EXECUTE FUNCTION campaigns_note_suppression();
"""
NO_SUPPRESSIONS = """
DROP TRIGGER campaigns_suppression_changed ON messaging_suppression;
DROP FUNCTION campaigns_note_suppression();
DROP FUNCTION campaigns_note_address(text, text);
"""

MEANINGS = """
CREATE TRIGGER campaigns_channel_decided
    AFTER INSERT OR UPDATE OR DELETE ON messaging_channelsettings
    FOR EACH STATEMENT EXECUTE FUNCTION segments_note_meaning();
CREATE TRIGGER campaigns_campaign_deleted AFTER DELETE ON campaigns_campaign
    FOR EACH STATEMENT EXECUTE FUNCTION segments_note_meaning();
"""
NO_MEANINGS = """
DROP TRIGGER campaigns_channel_decided ON messaging_channelsettings;
DROP TRIGGER campaigns_campaign_deleted ON campaigns_campaign;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("campaigns", "0001_initial"),
        ("messaging", "0001_initial"),
        ("segments", "0002_upkeep"),
    ]
    operations = [
        migrations.RunSQL(MESSAGES, NO_MESSAGES),
        migrations.RunSQL(SUPPRESSIONS, NO_SUPPRESSIONS),
        migrations.RunSQL(MEANINGS, NO_MEANINGS),
    ]
