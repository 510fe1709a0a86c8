//! The API on a temporary Postgres and bucket, to look at it and to measure it: `cargo run -p api --example throw_away
//! -- 127.0.0.1:8081`. There is no worker, so jobs stay queued. Everything is removed when it stops.

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use domain::event::Feed;
use domain::{Pools, Storage, StorageConfig};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8081".to_owned());
    let database = embedded::TemporaryDatabase::create(&domain::MIGRATIONS).await?;
    let folder = tempfile::tempdir()?;
    let s3 = embedded::S3::start(folder.path(), "127.0.0.1:0".parse()?).await?;
    let storage = Storage::new(&StorageConfig {
        endpoint: s3.endpoint(),
        bucket: s3.bucket().to_owned(),
        region: "auto".to_owned(),
        keys: domain::storage::Keys::fixed(s3.access_key(), s3.secret_key()),
        public_endpoint: None,
    })?;
    let pools = Pools::connect(database.url()).await?;
    let state = api::State::new(pools.api, Feed::start(pools.listen).await, storage);
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("http://{address}\n{}", database.url());
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            let _ = tokio::signal::ctrl_c().await;
            stop.cancel();
        }
    });
    api::serve(listener, state, stop).await?;
    Ok(())
}
