//! Repeats a generation whose job failed.

use outgoing::Guard;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::request::{self, GenerationParams};
use super::service::{New, NewLora, Written, insert};
use crate::delivery::request::{Plan, ResponseFormat, Stated};
use crate::faults::Faults;
use crate::{Caller, Error, GenerationId, JobId, ProjectId, Result, Storage, delivery, input, quota};

/// Makes the same request again, as a new job with the same seed. A picture that belongs to the failed generation is
/// copied. Errors: `Unknown` if a model, an input or a picture that it needs has been deleted; those of the stated
/// URLs to which its pictures are uploaded; `Conflict` without such URLs, if those of the failed generation are
/// forgotten.
pub(crate) async fn retry(
    caller: &Caller,
    connection: &mut PgConnection,
    storage: &Storage,
    failed: JobId,
    stated: Stated<'_>,
    guard: &Guard,
) -> Result<GenerationId> {
    let row = sqlx::query!(
        r#"SELECT id AS "id: GenerationId", model_id, params AS "params: Json<GenerationParams>", seed,
                  warnings AS "warnings: Json<Vec<String>>", response_format AS "format: ResponseFormat",
                  EXISTS (SELECT FROM deliveries d WHERE d.job_id = $1 AND d.target = 'archive') AS "archived!"
           FROM generations WHERE job_id = $1 AND project_id = $2"#,
        failed as JobId,
        caller.project() as ProjectId,
    )
    .fetch_one(&mut *connection)
    .await?;
    let loras = sqlx::query!(
        "SELECT model_id, scale, text_encoder_scale FROM generation_loras WHERE generation_id = $1 ORDER BY position",
        row.id as GenerationId,
    )
    .fetch_all(&mut *connection)
    .await?;
    let plan = plan(connection, failed, row.format, row.params.0.num_images, stated, guard).await?;
    let id = GenerationId::new();
    let loras = loras.into_iter().map(|lora| NewLora {
        model: lora.model_id,
        scale: lora.scale,
        text_encoder_scale: lora.text_encoder_scale,
    });
    let mut new = New {
        caller: caller.clone(),
        id,
        model: row.model_id,
        loras: loras.collect(),
        params: row.params.0,
        seed: row.seed,
        warnings: row.warnings.0,
        plan,
        webhook: None,
        archived: row.archived,
        retry_of: Some(failed),
    };
    let mut copies = Vec::new();
    let written = async {
        for (role, picture) in [("image", &mut new.params.image), ("mask", &mut new.params.mask)] {
            if let Some(picture) = picture {
                *picture = input::copy(storage, id, role, picture).await?;
                copies.extend(picture.own_object());
            }
        }
        quota::left(connection, caller.project()).await?.take_job(request::own_bytes(&new.params))?;
        insert(connection, &[&new], true).await
    };
    let refused = match written.await.map(|mut written| written.pop()) {
        Ok(Some(Written::At(_))) => return Ok(id),
        Ok(_) => Error::unknown("id", "A model or input of this generation has been deleted, so it cannot be retried."),
        Err(error) => error,
    };
    storage.discard(copies).await;
    Err(refused)
}

/// How the pictures of the new generation are delivered: to the stated URLs, or to those of the failed one.
async fn plan(
    connection: &mut PgConnection,
    failed: JobId,
    format: ResponseFormat,
    num_images: u32,
    stated: Stated<'_>,
    guard: &Guard,
) -> Result<Plan> {
    let mut faults = Faults::default();
    let uploads = if format != ResponseFormat::Upload {
        stated.refuse(format, &mut faults)
    } else if stated.is_empty() {
        delivery::upload::of_failed(connection, failed).await?
    } else {
        stated.check(num_images, guard, &mut faults)
    };
    faults.check()?;
    Ok(Plan { format, uploads })
}
