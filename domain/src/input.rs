//! Inputs: pictures that generations start from, an image to change or a mask. Each passes the image gate. An uploaded
//! input is a row that any number of generations can use. A picture that a request carries itself, or takes from an
//! earlier generation, is stored with its generation and deleted with it. Not here: what is made of them
//! (`generation`).

mod data_uri;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use self::data_uri::Reference;
use crate::deposit::Deposit;
use crate::image_gate::{self, CheckedImage};
use crate::storage::StorageKey;
use crate::{
    Caller, Database, Error, GenerationId, InputId, Page, PageRequest, ProjectId, Result, Storage, begin, deletion,
    quota,
};

/// An uploaded picture.
#[derive(Clone, Debug)]
pub struct Input {
    pub id: InputId,
    pub storage_key: String,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    pub media_type: String,
    /// Width in pixels.
    pub width: i32,
    /// Height in pixels.
    pub height: i32,
    pub bytes: i64,
    pub created_at: DateTime<Utc>,
}

/// A picture that a generation starts from, as stored in its row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceImage {
    /// The uploaded input. If there is none, the object belongs to the generation.
    pub input: Option<InputId>,
    pub storage_key: String,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Size of the object; 0 in a row from before migration 22.
    #[serde(default)]
    pub bytes: u64,
}

impl SourceImage {
    /// The object that is deleted with the generation, unless this is an uploaded input.
    pub(crate) fn own_object(&self) -> Option<String> {
        self.input.is_none().then(|| self.storage_key.clone())
    }
}

macro_rules! select_inputs {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Input,
            r#"SELECT id AS "id: InputId", storage_key, sha256, media_type, width, height, bytes, created_at FROM inputs "# + $rest
            $(, $argument)*
        )
    };
}

/// Checks and stores a picture. Errors: those of the [`image_gate`], naming `field`.
pub async fn create(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    field: &str,
    bytes: Bytes,
) -> Result<Input> {
    let image = image_gate::check(field, bytes).await?;
    let id = InputId::new();
    let key = StorageKey::Input { input: id, extension: image.extension }.to_string();
    let length = image.bytes.len() as i64;
    let mut deposit = Deposit::new(storage);
    deposit.add(&key);
    storage.put(&key, image.bytes, image.media_type).await?;
    let project = caller.project();
    deposit
        .commit(database.pool(caller), move |connection| {
            Box::pin(async move {
                quota::left(connection, project).await?.take_bytes(length)?;
                let inserted = sqlx::query_as!(
                    Input,
                    r#"INSERT INTO inputs (id, storage_key, sha256, media_type, width, height, bytes, project_id)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                       RETURNING id AS "id: InputId", storage_key, sha256, media_type, width, height, bytes,
                                 created_at"#,
                    id as InputId,
                    key,
                    image.sha256,
                    image.media_type,
                    image.width as i32,
                    image.height as i32,
                    length,
                    project as ProjectId,
                );
                Ok(inserted.fetch_one(connection).await?)
            })
        })
        .await
}

/// Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: InputId) -> Result<Input> {
    let found = select_inputs!("WHERE id = $1 AND project_id = $2", id as InputId, caller.project() as ProjectId)
        .fetch_optional(database.pool(caller))
        .await?;
    found.ok_or_else(|| Error::not_found("input", id))
}

/// Lists inputs, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Input>> {
    let inputs = select_inputs!(
        "WHERE project_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit()
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(inputs, |input| input.id.into()))
}

/// Deletes the row and the bytes. Errors: `NotFound`; `Conflict` while unfinished generations need it.
pub async fn delete(caller: &Caller, database: &Database, storage: &Storage, id: InputId) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    // The lock keeps new generations from naming the input until this is decided.
    let key = sqlx::query_scalar!(
        "SELECT storage_key FROM inputs WHERE id = $1 AND project_id = $2 FOR UPDATE",
        id as InputId,
        caller.project() as ProjectId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("input", id))?;
    let needed = sqlx::query_scalar!(
        r#"SELECT EXISTS (
             SELECT 1 FROM jobs j JOIN generations g ON g.job_id = j.id
             WHERE j.status IN ('queued', 'running')
               AND $1 IN (g.params -> 'image' ->> 'input', g.params -> 'mask' ->> 'input')) AS "needed!""#,
        id.to_string(),
    )
    .fetch_one(&mut *tx)
    .await?;
    if needed {
        return Err(Error::conflict("Generations that are queued or running need this input; cancel them or wait."));
    }
    sqlx::query!("DELETE FROM inputs WHERE id = $1", id as InputId).execute(&mut *tx).await?;
    let keys = vec![key];
    deletion::ask(&mut tx, &keys).await?;
    tx.commit().await?;
    deletion::now(database.pool(caller), storage, keys).await;
    Ok(())
}

/// Finds or stores the picture that `text` refers to: the id of an input or of an artifact, or a `data:` URI with the
/// picture itself. `field` is the field that an error names, and part of the name of an object that is made for the
/// generation. Errors: `Unknown` for an id that does not exist, `Invalid` for a text that is neither, those of the
/// [`image_gate`].
pub(crate) async fn resolve(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    generation: GenerationId,
    field: &'static str,
    text: &str,
) -> Result<SourceImage> {
    let key = match find(caller, database, field, text).await? {
        Picture::Carried(bytes) => {
            return keep(storage, generation, field, image_gate::check(field, bytes).await?).await;
        }
        Picture::Input(input) => {
            return Ok(SourceImage {
                input: Some(input.id),
                storage_key: input.storage_key,
                sha256: input.sha256,
                width: input.width.unsigned_abs(),
                height: input.height.unsigned_abs(),
                bytes: input.bytes.unsigned_abs(),
            });
        }
        Picture::Artifact { storage_key } => storage_key,
    };
    // A copy, so that the earlier generation can be deleted without affecting this one.
    let bytes = storage.get(&key).await.map_err(|error| missing(field, error))?;
    keep(storage, generation, field, image_gate::check(field, bytes).await?).await
}

/// The bytes of the picture that `text` refers to, as [`resolve`] finds it. They are not checked.
pub async fn bytes(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    field: &'static str,
    text: &str,
) -> Result<Bytes> {
    let key = match find(caller, database, field, text).await? {
        Picture::Carried(bytes) => return Ok(bytes),
        Picture::Input(input) => input.storage_key,
        Picture::Artifact { storage_key } => storage_key,
    };
    storage.get(&key).await.map_err(|error| missing(field, error))
}

/// The key of an object that is not there means nothing to the user.
fn missing(field: &str, error: Error) -> Error {
    match error {
        Error::NotFound { .. } => Error::unknown(field, "The picture is missing from the bucket."),
        other => other,
    }
}

/// A picture that a request refers to.
enum Picture {
    /// In the request itself.
    Carried(Bytes),
    Input(Input),
    Artifact {
        storage_key: String,
    },
}

/// Whether the text is an id of a picture that is there, or carries bytes. Errors: `Invalid` or `Unknown`, with the
/// field.
pub(crate) async fn check(caller: &Caller, database: &Database, field: &'static str, text: &str) -> Result<()> {
    find(caller, database, field, text).await.map(drop)
}

async fn find(caller: &Caller, database: &Database, field: &'static str, text: &str) -> Result<Picture> {
    let id = match data_uri::read(text).map_err(|why| Error::invalid(field, why))? {
        Reference::Bytes(bytes) => return Ok(Picture::Carried(bytes)),
        Reference::Id(id) => id,
    };
    let (pool, project) = (database.pool(caller), caller.project());
    let input = select_inputs!("WHERE id = $1 AND project_id = $2", id, project as ProjectId);
    if let Some(input) = input.fetch_optional(pool).await? {
        return Ok(Picture::Input(input));
    }
    let storage_key = sqlx::query_scalar!(
        "SELECT storage_key FROM artifacts a JOIN jobs j ON j.id = a.job_id
         WHERE a.id = $1 AND a.kind IN ('image', 'mask') AND j.project_id = $2",
        id,
        project as ProjectId,
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| Error::unknown(field, format!("There is no input and no picture `{id}`.")))?;
    Ok(Picture::Artifact { storage_key })
}

/// The same picture for another generation: an input as it is, otherwise a copy of the object. Errors: `Unknown` if it
/// was deleted.
pub(crate) async fn copy(
    storage: &Storage,
    generation: GenerationId,
    field: &'static str,
    picture: &SourceImage,
) -> Result<SourceImage> {
    if picture.input.is_some() {
        return Ok(picture.clone());
    }
    let bytes = storage.get(&picture.storage_key).await.map_err(|error| missing(field, error))?;
    keep(storage, generation, field, image_gate::check(field, bytes).await?).await
}

async fn keep(
    storage: &Storage,
    generation: GenerationId,
    field: &'static str,
    image: CheckedImage,
) -> Result<SourceImage> {
    let key = StorageKey::Source { generation, role: field, extension: image.extension }.to_string();
    let CheckedImage { sha256, width, height, .. } = image;
    let bytes = image.bytes.len() as u64;
    storage.put(&key, image.bytes, image.media_type).await?;
    Ok(SourceImage { input: None, storage_key: key, sha256, width, height, bytes })
}
