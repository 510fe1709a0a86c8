//! Runs a command with `DATABASE_URL` set to a temporary Postgres that has the migrations of a folder:
//! `cargo run -p embedded --example with_postgres -- migrations cargo check -p domain`.

use std::path::Path;
use std::process::{Command, ExitCode};

use embedded::TemporaryPostgres;
use sqlx::Connection;
use sqlx::migrate::Migrator;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(migrations), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("usage: with_postgres MIGRATIONS_FOLDER PROGRAM [ARGUMENTS]".into());
    };
    let postgres = TemporaryPostgres::start().await?;
    let url = postgres.url("postgres")?;
    let mut connection = sqlx::PgConnection::connect(&url).await?;
    Migrator::new(Path::new(&migrations)).await?.run(&mut connection).await?;
    let status = Command::new(program).args(arguments).env("DATABASE_URL", url).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
