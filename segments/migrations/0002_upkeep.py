"""The database tells the keeper what changed, whoever changed it and however.

Of a customer, of what belongs to one: rows of Change, for what some segment looks at and
nothing else. A statement writes none where no segment cares, which costs it the look at
a small table. What rules are made of, and what is of no single customer: rows of Reminder.

Events and new customers are told by their ids alone: segments/upkeep/feed.py.
"""

from django.db import migrations

# What customers are asked about, in the order of the columns. Of `attributes` only the
# keys that some segment looks at are compared.
COLUMNS = [
    "external_id",
    "first_name",
    "last_name",
    "email",
    "email_is_valid",
    "phone",
    "phone_is_valid",
    "birth_date",
    "gender",
    "city",
    "country",
    "language",
    "time_zone",
    "registered_at",
    "created_at",
]
NAMES = ", ".join(f"'{name}'" for name in COLUMNS)
CHANGED = ",\n".join(
    f"               CASE WHEN former.{name} IS DISTINCT FROM later.{name} THEN '{name}' END"
    for name in COLUMNS
)

WANTED = """
CREATE FUNCTION segments_wanted(sought text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM segments_dependency
                    WHERE kind = 'customer' AND name = sought)
$$;
"""
NOT_WANTED = "DROP FUNCTION segments_wanted(text);"

CUSTOMERS = f"""
CREATE FUNCTION segments_note_customers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted text[] := (SELECT array_agg(DISTINCT name) FROM segments_dependency
                       WHERE kind = 'customer'
                         AND (name IN ({NAMES}) OR starts_with(name, 'attributes.')));
    codes text[] := (SELECT array_agg(substr(name, 12)) FROM unnest(wanted) AS name
                      WHERE starts_with(name, 'attributes.'));
BEGIN
    IF wanted IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO segments_change (customer_id, what)
    SELECT id, what FROM (
        SELECT later.id, array_remove(ARRAY[
{CHANGED}
           ]::text[], NULL) || CASE
               WHEN codes IS NOT NULL AND former.attributes <> later.attributes
               THEN ARRAY(
                   SELECT 'attributes.' || code FROM unnest(codes) AS code
                    WHERE former.attributes -> code
                          IS DISTINCT FROM later.attributes -> code)
               END AS what
          FROM old_rows AS former JOIN new_rows AS later USING (id)
    ) AS changed WHERE what && wanted
     ORDER BY id;
    RETURN NULL;
END $$;
CREATE TRIGGER segments_customers_changed AFTER UPDATE ON customers_customer
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION segments_note_customers();

CREATE FUNCTION segments_note_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM segments_segment) THEN
        INSERT INTO segments_reminder (what)
        SELECT 'customer.' || id FROM old_rows ORDER BY id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER segments_customers_gone AFTER DELETE ON customers_customer
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION segments_note_gone();
"""  # noqa: S608  (names from the list above)
NO_CUSTOMERS = """
DROP TRIGGER segments_customers_changed ON customers_customer;
DROP TRIGGER segments_customers_gone ON customers_customer;
DROP FUNCTION segments_note_customers();
DROP FUNCTION segments_note_gone();
"""

# For tables with customer_id: the word for what changed is the trigger's argument.
OWNED = """
CREATE FUNCTION segments_note_owned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT segments_wanted(TG_ARGV[0]) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO segments_change (customer_id, what)
        SELECT DISTINCT customer_id, ARRAY[TG_ARGV[0]] FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO segments_change (customer_id, what)
        SELECT DISTINCT customer_id, ARRAY[TG_ARGV[0]] FROM old_rows;
    ELSE
        INSERT INTO segments_change (customer_id, what)
        SELECT customer_id, ARRAY[TG_ARGV[0]] FROM old_rows
         UNION
        SELECT customer_id, ARRAY[TG_ARGV[0]] FROM new_rows;
    END IF;
    RETURN NULL;
END $$;
"""
NOT_OWNED = "DROP FUNCTION segments_note_owned();"


def owned(table, word):
    """Note inserts, updates and deletes of a table with customer_id."""
    create, drop = "", ""
    for verb, rows in [
        ("insert", "NEW TABLE AS new_rows"),
        ("update", "OLD TABLE AS old_rows NEW TABLE AS new_rows"),
        ("delete", "OLD TABLE AS old_rows"),
    ]:
        create += f"""
            CREATE TRIGGER segments_{word}_{verb} AFTER {verb} ON {table}
                REFERENCING {rows} FOR EACH STATEMENT
                EXECUTE FUNCTION segments_note_owned('{word}');
        """
        drop += f"DROP TRIGGER segments_{word}_{verb} ON {table};"
    return migrations.RunSQL(create, drop)


# The keeper says that it is at work, and keeps the counts itself. Others are those who
# write lists, merge customers or erase them.
MEMBERS = """
CREATE FUNCTION segments_note_members() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('segments.keeping', true) = 'on' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO segments_reminder (what)
        SELECT DISTINCT 'members.' || segment_id FROM new_rows;
        INSERT INTO segments_change (customer_id, what)
        SELECT customer_id, ARRAY['segment.' || segment_id] FROM new_rows
         WHERE segments_wanted('segment.' || segment_id);
    ELSE
        INSERT INTO segments_reminder (what)
        SELECT DISTINCT 'members.' || segment_id FROM old_rows;
        INSERT INTO segments_change (customer_id, what)
        SELECT customer_id, ARRAY['segment.' || segment_id] FROM old_rows
         WHERE segments_wanted('segment.' || segment_id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER segments_members_insert AFTER INSERT ON segments_membership
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION segments_note_members();
CREATE TRIGGER segments_members_delete AFTER DELETE ON segments_membership
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION segments_note_members();
"""
NO_MEMBERS = """
DROP TRIGGER segments_members_insert ON segments_membership;
DROP TRIGGER segments_members_delete ON segments_membership;
DROP FUNCTION segments_note_members();
"""

MEANINGS = """
CREATE FUNCTION segments_note_meaning() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'segments_segment' OR EXISTS (SELECT FROM segments_segment) THEN
        INSERT INTO segments_reminder (what) VALUES ('meaning');
    END IF;
    RETURN NULL;
END $$;
"""
NO_MEANINGS = "DROP FUNCTION segments_note_meaning();"


def declared(table, *columns):
    """Note what is declared and what is taken back, and changes of these columns."""
    differ = " OR ".join(f"OLD.{c} IS DISTINCT FROM NEW.{c}" for c in columns)
    return migrations.RunSQL(
        f"""
        CREATE TRIGGER segments_{table}_declared AFTER INSERT OR DELETE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION segments_note_meaning();
        CREATE TRIGGER segments_{table}_redeclared
            AFTER UPDATE OF {", ".join(columns)} ON {table}
            FOR EACH ROW WHEN ({differ})
            EXECUTE FUNCTION segments_note_meaning();
        """,
        f"""
        DROP TRIGGER segments_{table}_declared ON {table};
        DROP TRIGGER segments_{table}_redeclared ON {table};
        """,
    )


class Migration(migrations.Migration):
    dependencies = [
        ("segments", "0001_initial"),
        ("customers", "0001_initial"),
        ("events", "0001_initial"),
    ]
    operations = [
        migrations.RunSQL(WANTED, NOT_WANTED),
        migrations.RunSQL(CUSTOMERS, NO_CUSTOMERS),
        migrations.RunSQL(OWNED, NOT_OWNED),
        owned("customers_consent", "consent"),
        owned("customers_device", "device"),
        migrations.RunSQL(MEMBERS, NO_MEMBERS),
        migrations.RunSQL(MEANINGS, NO_MEANINGS),
        declared("segments_segment", "rule", "kind", "archived_at", "is_watched"),
        declared("customers_attribute", "code", "type"),
        declared(
            "customers_mailingcategory",
            "code",
            "default_email",
            "default_sms",
            "default_push",
        ),
        declared("events_eventtype", "name", "kind"),
        declared("events_eventfield", "type_id", "code", "value_type"),
        declared("events_source", "name"),
        # Segments that are there already are looked at once.
        migrations.RunSQL(
            "INSERT INTO segments_reminder (what) VALUES ('meaning')",
            migrations.RunSQL.noop,
        ),
    ]
