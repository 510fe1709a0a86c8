//! Whether a database can serve. Each fault is one sentence: the value found, the value needed, and the statement or
//! setting that helps.

use sqlx::{PgConnection, Row as _};

use super::MIGRATIONS;
use super::address::Address;

/// The oldest version that is supported.
const OLDEST: i32 = 14;
/// Tables of which a role must be able to read and write the rows.
const TABLES: &str = "'jobs', 'job_events', 'attempts', 'generations', 'models', 'workers'";

/// Why there is no connection.
pub(super) enum Obstacle {
    /// The same address fails every time.
    Permanent(String),
    /// The server answers, and will accept a connection later.
    Busy(String),
    /// The server does not answer.
    Silent(String),
}

/// Explains a failed connection.
pub(super) fn explain(error: &sqlx::Error, address: &Address) -> Obstacle {
    let (place, role, database, variable) = (address.place(), address.role(), address.database(), address.variable);
    if let Some(refusal) = outgoing::refused_certificate(error) {
        return Obstacle::Permanent(format!("the server at {place} is not trusted: {refusal}"));
    }
    let error = match error {
        sqlx::Error::Database(error) => error,
        sqlx::Error::Tls(why) => {
            return Obstacle::Permanent(format!(
                "no encrypted connection to {place}: {why}. Switch ssl on in the server, or change sslmode in \
                 {variable}"
            ));
        }
        sqlx::Error::Configuration(why) => return Obstacle::Permanent(format!("{variable}: {why}")),
        other => return Obstacle::Silent(format!("the server at {place} does not answer: {other}")),
    };
    let message = error.message();
    // Poolers use one code for everything.
    if ["no more connections allowed", "max clients reached"].iter().any(|busy| message.contains(busy)) {
        return Obstacle::Busy(format!("the pooler at {place} has no free connection: {message}"));
    }
    match error.code().as_deref() {
        Some("53300") => Obstacle::Busy(format!("the server at {place} has no free connection: {message}")),
        Some("57P03") => Obstacle::Busy(format!("the server at {place} is not ready: {message}")),
        Some("28P01") => Obstacle::Permanent(format!(
            "the server at {place} refuses the password of the role `{role}`. Correct {variable}, or set the password: \
             ALTER ROLE \"{role}\" PASSWORD '…'"
        )),
        Some("28000") if message.contains("no encryption") => Obstacle::Permanent(format!(
            "the server at {place} refuses the role `{role}` without encryption. Add sslmode=require to {variable} \
             ({message})"
        )),
        Some("28000") => Obstacle::Permanent(format!(
            "the server at {place} refuses the role `{role}`: {message}. It needs a role that may log in (CREATE ROLE \
             \"{role}\" LOGIN PASSWORD '…') and a line in pg_hba.conf"
        )),
        Some("3D000") => Obstacle::Permanent(format!(
            "the server at {place} has no database `{database}`. Create it: CREATE DATABASE \"{database}\""
        )),
        Some("42501") => Obstacle::Permanent(format!(
            "the role `{role}` may not connect to the database `{database}` at {place}. Allow it: GRANT CONNECT ON \
             DATABASE \"{database}\" TO \"{role}\""
        )),
        Some("08P01") if message.contains("startup parameter") => Obstacle::Permanent(format!(
            "the pooler at {place} refuses a parameter of {variable}: {message}. Remove it, or add it to the pooler's \
             ignore_startup_parameters"
        )),
        Some("08P01")
            if ["again later", "cannot connect", "crashed", "timeout"].iter().any(|why| message.contains(why)) =>
        {
            Obstacle::Silent(format!("the pooler at {place} does not reach its server: {message}"))
        }
        Some("08P01" | "42704" | "22023" | "0A000") => {
            Obstacle::Permanent(format!("the server at {place} refuses the connection: {message}"))
        }
        _ => Obstacle::Silent(format!("the server at {place} refuses the connection: {message}")),
    }
}

/// Why the database behind `connection` cannot serve; `None` if it can.
pub(super) async fn fault(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let found = sqlx::raw_sql(
        "SELECT current_setting('server_version_num')::int4 / 10000 AS major,
             current_setting('server_version') AS version,
             (SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database())
                 AS encoding,
             current_user::text AS role, current_database()::text AS database, current_schema()::text AS schema,
             pg_is_in_recovery() AS replica, current_setting('default_transaction_read_only') = 'on' AS read_only,
             coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
             (SELECT btrim(name, ' \"') FROM unnest(string_to_array(current_setting('search_path'), ',')) AS name
              WHERE name NOT LIKE '%$user%' LIMIT 1) AS wanted,
             EXISTS (SELECT FROM pg_namespace, unnest(string_to_array(current_setting('search_path'), ',')) AS name
                     WHERE nspname = btrim(name, ' \"')) AS is_there",
    )
    .fetch_one(&mut *connection)
    .await?;
    let (role, database): (String, String) = (found.try_get("role")?, found.try_get("database")?);
    if found.try_get::<i32, _>("major")? < OLDEST {
        let version: String = found.try_get("version")?;
        return Ok(Some(format!(
            "the server is PostgreSQL {version}, and {OLDEST} or later is needed. Upgrade it with pg_upgrade, or name \
             another server"
        )));
    }
    let encoding: String = found.try_get("encoding")?;
    if encoding != "UTF8" {
        return Ok(Some(format!(
            "the database `{database}` has the encoding {encoding}, and UTF8 is needed. Create another one: CREATE \
             DATABASE pyrograph ENCODING 'UTF8' TEMPLATE template0"
        )));
    }
    if found.try_get("replica")? {
        return Ok(Some(
            "the server is a replica, which can only be read. Name the primary, or promote this one: SELECT \
             pg_promote()"
                .to_owned(),
        ));
    }
    if found.try_get("read_only")? {
        return Ok(Some(format!(
            "the role `{role}` can only read, since default_transaction_read_only is on. Switch it off: ALTER ROLE \
             \"{role}\" SET default_transaction_read_only = off"
        )));
    }
    let Some(schema) = found.try_get::<Option<String>, _>("schema")? else {
        let wanted = found.try_get::<Option<String>, _>("wanted")?.unwrap_or_else(|| "public".to_owned());
        let remedy = if found.try_get("is_there")? {
            format!("Allow one: GRANT USAGE, CREATE ON SCHEMA \"{wanted}\" TO \"{role}\"")
        } else {
            format!("Create one: CREATE SCHEMA \"{wanted}\" AUTHORIZATION \"{role}\"")
        };
        return Ok(Some(format!(
            "the role `{role}` may use no schema of its search_path in the database `{database}`. {remedy}"
        )));
    };
    if let Some(table) = closed_table(connection).await? {
        return Ok(Some(format!(
            "the role `{role}` may not read and write the table `{table}`. Allow it: GRANT SELECT, INSERT, UPDATE, \
             DELETE ON ALL TABLES IN SCHEMA \"{schema}\" TO \"{role}\"; GRANT USAGE ON ALL SEQUENCES IN SCHEMA \
             \"{schema}\" TO \"{role}\""
        )));
    }
    if !found.try_get("may_create")? && !is_current(connection).await? {
        return Ok(Some(format!(
            "the role `{role}` may not create tables in the schema `{schema}` of the database `{database}`. Allow it: \
             GRANT CREATE ON SCHEMA \"{schema}\" TO \"{role}\", or run `pyrograph migrate` with another role"
        )));
    }
    Ok(None)
}

async fn closed_table(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let closed = sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "SELECT relname::text AS name FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname IN ({TABLES})
             AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                 AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
         ORDER BY relname LIMIT 1"
    )));
    closed.fetch_optional(connection).await?.map(|row| row.try_get("name")).transpose()
}

/// The schema, compared with our migrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schema {
    /// Exactly ours.
    Current,
    /// It lacks some of ours, or all.
    Older,
    /// It has this migration, which we do not know.
    Newer(i64),
    /// It has another migration of this number than ours.
    Changed(i64),
    /// The role may use the tables, and not see which migrations were applied.
    Hidden,
}

/// Whether exactly our migrations are applied.
pub(super) async fn is_current(connection: &mut PgConnection) -> sqlx::Result<bool> {
    Ok(schema(connection).await? == Schema::Current)
}

pub(super) async fn schema(connection: &mut PgConnection) -> sqlx::Result<Schema> {
    let readable = sqlx::raw_sql("SELECT has_table_privilege(to_regclass('_sqlx_migrations'), 'SELECT') AS readable");
    match readable.fetch_one(&mut *connection).await?.try_get("readable")? {
        Some(true) => {}
        Some(false) => return Ok(Schema::Hidden),
        None => return Ok(Schema::Older),
    }
    let applied = sqlx::raw_sql("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version");
    let mut complete = 0;
    for row in applied.fetch_all(connection).await? {
        let version = row.try_get("version")?;
        let Some(ours) = MIGRATIONS.iter().find(|migration| migration.version == version) else {
            return Ok(Schema::Newer(version));
        };
        if row.try_get::<Vec<u8>, _>("checksum")? != ours.checksum.as_ref() {
            return Ok(Schema::Changed(version));
        }
        complete += usize::from(row.try_get::<bool, _>("success")?);
    }
    Ok(if complete == MIGRATIONS.iter().count() { Schema::Current } else { Schema::Older })
}
