//! Migrations preserve the rows of an older installation. `dumps/` holds installations as the version after the
//! migration in the file's name left them; `tests/reference/installation_dump.py` wrote them.

use std::collections::BTreeMap;

use domain::MIGRATIONS;
use embedded::TemporaryDatabase;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The dump, and the number of its last migration.
const DUMPS: [(&str, i64); 7] = [
    (include_str!("dumps/0009_memory.sql"), 9),
    (include_str!("dumps/0013_comments.sql"), 13),
    (include_str!("dumps/0018_pictures.sql"), 18),
    (include_str!("dumps/0019_lanes.sql"), 19),
    (include_str!("dumps/0020_footprints.sql"), 20),
    (include_str!("dumps/0021_access.sql"), 21),
    (include_str!("dumps/0022_limits.sql"), 22),
];
/// Tables in which a migration may change existing rows: none so far. Added columns do not count.
const REWRITTEN: [&str; 0] = [];

#[tokio::test]
async fn an_older_installation_keeps_every_row_and_every_value() {
    for (dump, last) in DUMPS {
        let database = TemporaryDatabase::empty(&MIGRATIONS).await.unwrap();
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        sqlx::raw_sql(dump).execute(&mut connection).await.unwrap();
        let before = rows(&mut connection).await;
        assert!(before.values().filter(|rows| !rows.is_empty()).count() >= 18, "the dump has rows in most tables");
        assert!(MIGRATIONS.iter().any(|migration| migration.version > last), "there is something to migrate");

        MIGRATIONS.run(&mut connection).await.unwrap();

        let after = rows(&mut connection).await;
        for (table, old) in before.iter().filter(|(table, _)| !REWRITTEN.contains(&table.as_str())) {
            let new = after.get(table).unwrap_or_else(|| panic!("the table {table} is gone"));
            for row in old {
                let row = &as_migrated(table, row);
                assert!(new.iter().any(|new| contains(new, row)), "{table} lost {row:#}");
            }
        }
        // A second run has nothing to do.
        MIGRATIONS.run(&mut connection).await.unwrap();
        assert_eq!(rows(&mut connection).await, after);
    }
}

/// Every row of every table except sqlx's own, as JSON.
async fn rows(connection: &mut PgConnection) -> BTreeMap<String, Vec<Value>> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
         AND NOT relispartition AND relname <> '_sqlx_migrations'",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let mut rows = BTreeMap::new();
    for table in tables {
        let statement = format!(r#"SELECT to_jsonb(t) FROM "{table}" t ORDER BY to_jsonb(t)"#);
        let found = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_all(&mut *connection).await.unwrap();
        rows.insert(table, found);
    }
    rows
}

/// The row with the columns that have replaced others since.
fn as_migrated(table: &str, row: &Value) -> Value {
    let mut row = row.clone();
    if table == "projects"
        && let Some(columns) = row.as_object_mut()
    {
        // What a project has from before it could have a retention is kept for ever.
        let days = columns.remove("retention_days").unwrap_or_default();
        columns.insert("keep_outputs_days".to_owned(), days.clone());
        columns.insert("keep_inputs_days".to_owned(), days);
        for for_ever in ["keep_events_days", "keep_failed_jobs_days"] {
            columns.insert(for_ever.to_owned(), Value::Null);
        }
    }
    row
}

/// Whether all columns of `old` are in `new`, with the same values.
fn contains(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    old.iter().all(|(column, value)| new.get(column) == Some(value))
}
