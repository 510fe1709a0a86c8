//! How pictures are added to a dataset: each is checked and stored under an id that is not known yet, then all of them
//! become visible in one transaction, or none. Objects stored for nothing are removed, also if the client disconnects.
//!
//! Pictures that the client names as such are refused if they are none. Of the files of a folder or an archive, those
//! that cannot be used are left out and listed.

mod files;

use std::fs::File;

use bytes::Bytes;
use sqlx::PgConnection;
use uuid::Uuid;

use self::files::Files;
use super::folder::{LeftOut, clean};
use super::{Example, check_caption, check_exists, lock};
use crate::database::now;
use crate::deposit::Deposit;
use crate::storage::StorageKey;
use crate::{Caller, Database, DatasetId, Error, ExampleId, Result, Storage, image_gate, quota, zip_gate};

/// Most pictures of one request.
pub const MAX_PICTURES: usize = zip_gate::MAX_ENTRIES;

/// Pictures that are being added. If dropped before [`Intake::commit`], it removes what it stored.
pub struct Intake {
    database: Database,
    storage: Storage,
    deposit: Deposit,
    rows: Rows,
    /// Files of a folder.
    files: Files,
    /// Files of a folder that became no part of an example.
    left_out: Vec<LeftOut>,
}

/// The rows of the pictures, in the order in which they were added.
pub(crate) struct Rows {
    caller: Caller,
    dataset: DatasetId,
    examples: Vec<Example>,
}

impl Intake {
    /// Errors: `NotFound` when there is no such dataset.
    pub async fn begin(caller: &Caller, database: &Database, storage: &Storage, dataset: DatasetId) -> Result<Self> {
        check_exists(caller, database, dataset).await?;
        Ok(Self {
            database: database.clone(),
            storage: storage.clone(),
            deposit: Deposit::new(storage),
            rows: Rows { caller: caller.clone(), dataset, examples: Vec::new() },
            files: Files::default(),
            left_out: Vec::new(),
        })
    }

    pub fn len(&self) -> usize {
        self.rows.examples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.examples.is_empty()
    }

    /// Checks and stores one picture; `field` is the field that an error names.
    pub async fn add(&mut self, field: &str, bytes: Bytes, caption: &str) -> Result<()> {
        self.add_as(ExampleId::new(), field, bytes, caption).await
    }

    pub(crate) async fn add_as(&mut self, id: ExampleId, field: &str, bytes: Bytes, caption: &str) -> Result<()> {
        if self.len() >= MAX_PICTURES {
            return Err(Error::too_large(field, format!("At most {MAX_PICTURES} pictures are taken at once.")));
        }
        let caption = clean(caption);
        check_caption(&caption)?;
        let image = image_gate::check(field, bytes).await?;
        // Not the example's id, which two requests that complete the same upload share: each stores its own object, and
        // removes it if the other was faster.
        let example = ExampleId::new();
        let extension = image.extension;
        let key = StorageKey::DatasetExample { dataset: self.rows.dataset, example, extension }.to_string();
        self.deposit.add(&key);
        let length = image.bytes.len() as i64;
        self.storage.put(&key, image.bytes, image.media_type).await?;
        self.rows.examples.push(Example {
            id,
            position: 0,
            storage_key: key,
            sha256: image.sha256,
            media_type: image.media_type.to_owned(),
            width: image.width as i32,
            height: image.height as i32,
            bytes: length,
            caption,
            created_at: now(),
        });
        Ok(())
    }

    /// Sets the captions of all pictures, in the order in which they were added.
    pub fn caption_all(&mut self, captions: &[String]) -> Result<()> {
        for (example, caption) in self.rows.examples.iter_mut().zip(captions) {
            let caption = clean(caption);
            check_caption(&caption)?;
            example.caption = caption;
        }
        Ok(())
    }

    /// Adds the pictures of a zip archive with their captions, by the rules of a folder.
    pub async fn add_archive(&mut self, file: File) -> Result<()> {
        // A separate thread reads the archive, a few pictures ahead of the one that is being stored.
        let (sender, mut entries) = tokio::sync::mpsc::channel(2);
        let reader = tokio::task::spawn_blocking(move || {
            let mut archive = zip_gate::Archive::open(file)?;
            let repeated = std::mem::take(&mut archive.repeated);
            for entry in archive {
                let failed = entry.is_err();
                if sender.blocking_send(entry).is_err() || failed {
                    break;
                }
            }
            Ok::<_, Error>(repeated)
        });
        while let Some(entry) = entries.recv().await {
            let entry = entry?;
            match entry.content {
                Ok(bytes) => self.add_file("archive", &entry.name, bytes).await?,
                Err(reason) => self.leave_out("archive", &entry.name, &reason)?,
            }
        }
        let repeated = reader.await.map_err(Error::internal)??;
        let reason = "Another file of the archive has the same path; the last of them is read.";
        self.left_out.extend(repeated.iter().map(|name| LeftOut::new(name, reason)));
        self.sort_files("archive").await
    }

    /// The files of a folder or archive that became no part of an example.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Makes the pictures visible, after those that exist already. Once called, it runs to its end even if the caller
    /// stops waiting. Errors: `Invalid` if there are none, `NotFound` if the dataset was deleted meanwhile.
    pub async fn commit(self) -> Result<Vec<Example>> {
        let pool = self.database.pool(&self.rows.caller).clone();
        let (deposit, rows) = self.into_parts();
        deposit.commit(&pool, |connection| Box::pin(rows.insert(connection))).await
    }

    /// The stored objects and their rows, for a caller that writes these in its own transaction.
    pub(crate) fn into_parts(self) -> (Deposit, Rows) {
        (self.deposit, self.rows)
    }

    /// Removes the stored objects.
    pub async fn abandon(self) {
        self.deposit.discard().await;
    }
}

impl Rows {
    /// Writes the rows, and returns them with their positions in the dataset.
    pub(crate) async fn insert(mut self, connection: &mut PgConnection) -> Result<Vec<Example>> {
        if self.examples.is_empty() {
            return Err(Error::invalid(
                "image",
                "There is no picture in the request; send `image` parts, `file` parts or one `archive`.",
            ));
        }
        let bytes = self.examples.iter().map(|example| example.bytes).sum();
        quota::left(connection, self.caller.project()).await?.take_bytes(bytes)?;
        lock(&self.caller, connection, self.dataset).await?;
        let first = sqlx::query_scalar!(
            r#"SELECT coalesce(max(position) + 1, 0) AS "first!" FROM examples WHERE dataset_id = $1"#,
            self.dataset as DatasetId,
        )
        .fetch_one(&mut *connection)
        .await?;
        for (example, position) in self.examples.iter_mut().zip(first..) {
            example.position = position;
        }
        let ids: Vec<Uuid> = self.examples.iter().map(|example| example.id.into()).collect();
        let text = |field: fn(&Example) -> &String| {
            self.examples.iter().map(|example| field(example).clone()).collect::<Vec<String>>()
        };
        let number = |field: fn(&Example) -> i32| self.examples.iter().map(field).collect::<Vec<i32>>();
        let bytes: Vec<i64> = self.examples.iter().map(|example| example.bytes).collect();
        let created: Vec<_> = self.examples.iter().map(|example| example.created_at).collect();
        sqlx::query!(
            "INSERT INTO examples (id, dataset_id, position, storage_key, sha256, media_type, width, height, bytes, caption, created_at)
             SELECT e.id, $1, e.position, e.storage_key, e.sha256, e.media_type, e.width, e.height, e.bytes, e.caption, e.created_at
             FROM unnest($2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::int[], $8::int[], $9::bigint[], $10::text[], $11::timestamptz[])
               AS e(id, position, storage_key, sha256, media_type, width, height, bytes, caption, created_at)",
            self.dataset as DatasetId,
            &ids,
            &number(|example| example.position),
            &text(|example| &example.storage_key),
            &text(|example| &example.sha256),
            &text(|example| &example.media_type),
            &number(|example| example.width),
            &number(|example| example.height),
            &bytes,
            &text(|example| &example.caption),
            &created,
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!("UPDATE datasets SET updated_at = clock_timestamp() WHERE id = $1", self.dataset as DatasetId)
            .execute(connection)
            .await?;
        Ok(self.examples)
    }
}
