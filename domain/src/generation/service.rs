//! Creating and reading generations: the two calls that carry the throughput of the service. Calls that arrive together
//! share a statement ([`Batcher`]). Rarer calls are plain functions of [`super`].

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use memory::Picture;
use outgoing::Guard;
use sqlx::types::Json;
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::loras::{self, Prompt};
use super::request::{self, GenerationParams, GenerationRequest};
use super::{DEFAULT_MODEL, Generation, LoraUse, MAX_PICTURE_CHARS, get_many, warnings};
use crate::batcher::Batcher;
use crate::capacity::Capacity;
use crate::delivery::request::{NewDeliveries, Plan};
use crate::delivery::webhook::{Endpoint, NewEndpoints};
use crate::faults::Faults;
use crate::input::{self, SourceImage};
use crate::job;
use crate::limits::seed;
use crate::model::Catalog;
use crate::report::Report;
use crate::{Caller, Database, Error, GenerationId, JobId, ProjectId, Result, Storage, begin, bounded, quota};

/// Cloning is cheap.
#[derive(Clone)]
pub struct GenerationService {
    database: Database,
    capacity: Capacity,
    catalog: Catalog,
    storage: Storage,
    archived: bool,
    outbound: Guard,
    creations: Batcher<New, Written>,
    looks: Batcher<(Caller, GenerationId), Option<Generation>>,
}

/// A generation to be written, with its job of the same id.
pub(super) struct New {
    pub caller: Caller,
    pub id: GenerationId,
    pub model: Uuid,
    pub loras: Vec<NewLora>,
    pub params: GenerationParams,
    pub seed: i64,
    /// About settings without effect.
    pub warnings: Vec<String>,
    pub plan: Plan,
    /// The endpoint that is notified of it. That of a repeated one is written by the retry.
    pub webhook: Option<Endpoint>,
    /// Whether the server has an archive.
    pub archived: bool,
    /// The failed job that it repeats.
    pub retry_of: Option<JobId>,
}

/// What became of a generation that was to be written.
#[derive(Clone, Debug)]
pub(super) enum Written {
    /// It is there, since this time.
    At(DateTime<Utc>),
    /// It needs a model or an input that was deleted.
    Deleted,
    /// Its project has quotas, which were not asked.
    Limited,
    /// Its project has quotas: one that is used up, or the trouble while they were asked.
    Refused(Error),
}

/// A LoRA of a generation to be written.
pub(super) struct NewLora {
    pub model: Uuid,
    pub scale: f64,
    pub text_encoder_scale: Option<f64>,
}

impl GenerationService {
    pub fn new(database: Database, catalog: Catalog, storage: Storage) -> Self {
        let (inserts, reads) = (database.clone(), database.clone());
        Self {
            capacity: Capacity::new(database.clone()),
            database,
            catalog,
            storage,
            archived: false,
            outbound: Guard::default(),
            creations: Batcher::new(move |new: &[New]| {
                let database = inserts.clone();
                Box::pin(async move {
                    match new.first() {
                        Some(first) => write(database.pool(&first.caller), new).await,
                        None => Ok(Vec::new()),
                    }
                })
            }),
            looks: Batcher::new(move |ids| {
                let database = reads.clone();
                Box::pin(async move { get_many(&database, ids).await })
            }),
        }
    }

    /// Its pictures go to an archive, too, unless their project wants none.
    pub fn with_archive(self) -> Self {
        Self { archived: true, ..self }
    }

    /// What uploads may reach; without this, the public internet.
    pub fn with_outbound(self, outbound: Guard) -> Self {
        Self { outbound, ..self }
    }

    /// Checks the request and writes the generation with its queued job, or nothing.
    /// Errors: `NotFound` for a model that is not there, `Invalid` naming the field, also if no running worker has the
    /// memory for it; `OverQuota`.
    pub async fn create(&self, caller: &Caller, mut request: GenerationRequest) -> Result<Generation> {
        let (mut faults, mut tags) = (Faults::default(), Vec::new());
        let webhook = faults.take(Endpoint::of(request.webhook.as_ref(), &self.outbound));
        let model = self.catalog.get(caller, request.model.as_deref().unwrap_or(DEFAULT_MODEL)).await;
        let model = model.map_err(|error| error.in_field("model"));
        let checked =
            model.and_then(|model| Ok((request::params(&request, &model, &self.outbound, &mut faults)?, model)));
        let ((mut params, plan), model) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                request::check_without_model(&request, &self.outbound, &mut faults);
                return faults.fail(error);
            }
        };
        let lora_requests = std::mem::take(&mut request.loras);
        let stated = lora_requests.len();
        let seed = faults.take(seed(request.seed, params.num_images));
        let prompt = Prompt { text: &params.prompt, syntax: params.prompt_syntax };
        let loras = loras::of(&self.catalog, caller, &model, lora_requests, prompt, &mut tags).await;
        let loras = faults.take(loras);
        if !faults.is_empty() {
            // The bytes are checked, and stored, only if everything else is right.
            for (field, text) in [("image", &request.image), ("mask", &request.mask)] {
                if let Some(text) = text.as_ref().filter(|text| text.len() <= MAX_PICTURE_CHARS) {
                    faults.take(input::check(caller, &self.database, field, text).await);
                }
            }
        }
        faults.check()?;
        self.capacity.check_picture(caller, &model, Picture::from(&params)).await?;
        let mut warnings = warnings::of(&request, &params, &model)?;
        warnings.append(&mut tags);

        let id = GenerationId::new();
        // Before the row, so that a reader of the row finds its pictures.
        if let Some((image, mask)) = self.pictures(caller, id, &request).await? {
            request::start_from(&mut params, image, mask, &request, &model);
        }
        let new = New {
            caller: caller.clone(),
            id,
            model: model.id.into(),
            loras: loras.iter().map(NewLora::from).collect(),
            params: params.clone(),
            seed,
            warnings: warnings.clone(),
            plan: plan.clone(),
            webhook: webhook.clone(),
            archived: self.archived,
            retry_of: None,
        };
        let created_at = match self.creations.ask(new).await {
            Ok(Written::At(created_at)) => created_at,
            Ok(Written::Refused(error @ (Error::OverQuota { .. } | Error::NotFound { .. }))) => {
                self.storage.discard(request::own_objects(&params)).await;
                return Err(error);
            }
            // The row may exist: better an object without a row, which the sweeper finds, than a row without its
            // picture.
            Ok(Written::Refused(error)) | Err(error) => {
                self.catalog.forget();
                return Err(error);
            }
            Ok(Written::Deleted | Written::Limited) => {
                self.storage.discard(request::own_objects(&params)).await;
                // The cache is out of date; after another lookup, the name may mean another model.
                self.catalog.forget();
                let field = self.deleted(caller, &loras, stated, &params).await?;
                let message = "A model or input of this request was deleted just now; ask again.";
                return Err(Error::unknown(field, message));
            }
        };
        job::ring(self.database.pool(caller));
        let webhook = webhook.as_ref().map(Endpoint::shown);
        let report = Report { warnings, webhook, ..Report::queued(total_steps(&params)) };
        Ok(Generation {
            id,
            job_id: JobId(id.into()),
            model: model.reference(),
            loras,
            inputs: request::inputs(&params).collect(),
            params,
            seed,
            response_format: plan.format,
            uploads: Some(plan.uploads),
            report,
            created_at,
        })
    }

    /// As [`super::get`].
    pub async fn get(&self, caller: &Caller, id: GenerationId) -> Result<Generation> {
        self.looks.ask((caller.clone(), id)).await?.ok_or_else(|| Error::not_found("generation", id))
    }

    /// The field that names a LoRA or input that is not there any more; `model` if all of them are there. The first
    /// `stated` of the LoRAs are those of the field `loras`.
    async fn deleted(
        &self,
        caller: &Caller,
        loras: &[LoraUse],
        stated: usize,
        params: &GenerationParams,
    ) -> Result<String> {
        for (position, lora) in loras.iter().enumerate() {
            if is_missing(self.catalog.get(caller, &lora.model.id.to_string()).await)? {
                return Ok(if position < stated { format!("loras[{position}].model") } else { "prompt".to_owned() });
            }
        }
        for (field, picture) in [("image", &params.image), ("mask", &params.mask)] {
            if let Some(id) = picture.as_ref().and_then(|picture| picture.input)
                && is_missing(input::get(caller, &self.database, id).await)?
            {
                return Ok(field.to_owned());
            }
        }
        Ok("model".to_owned())
    }

    /// The pictures that the request starts from, image and mask.
    async fn pictures(
        &self,
        caller: &Caller,
        id: GenerationId,
        request: &GenerationRequest,
    ) -> Result<Option<(SourceImage, Option<SourceImage>)>> {
        let Some(text) = &request.image else { return Ok(None) };
        let image = input::resolve(caller, &self.database, &self.storage, id, "image", text).await?;
        let Some(text) = &request.mask else { return Ok(Some((image, None))) };
        match input::resolve(caller, &self.database, &self.storage, id, "mask", text).await {
            Ok(mask) => Ok(Some((image, Some(mask)))),
            Err(error) => {
                self.storage.discard(image.own_object()).await;
                Err(error)
            }
        }
    }
}

/// Whether a lookup found nothing. Errors: any other reason why it failed.
fn is_missing<T>(found: Result<T>) -> Result<bool> {
    match found {
        Ok(_) => Ok(false),
        Err(Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

impl From<&LoraUse> for NewLora {
    fn from(lora: &LoraUse) -> Self {
        Self { model: lora.model.id.into(), scale: lora.scale, text_encoder_scale: lora.text_encoder_scale }
    }
}

/// Writes all of them with their queued jobs, as far as the quotas of their projects allow: in one statement, and in a
/// transaction for each project that has quotas.
async fn write(pool: &PgPool, new: &[New]) -> Result<Vec<Written>> {
    let all: Vec<&New> = new.iter().collect();
    let mut written = insert(pool, &all, false).await?;
    let limited = |written: &Written| matches!(written, Written::Limited);
    while let Some(first) = written.iter().position(limited) {
        let project = new[first].caller.project();
        let of_project = |at: &usize| limited(&written[*at]) && new[*at].caller.project() == project;
        let positions: Vec<usize> = (0..new.len()).filter(of_project).collect();
        let some: Vec<&New> = positions.iter().map(|at| &new[*at]).collect();
        // Others are written already, so this must not fail the whole batch.
        let answers = match bounded(write_limited(pool, project, &some)).await {
            Ok(answers) => answers,
            Err(error) => vec![Written::Refused(error); some.len()],
        };
        for (at, answer) in positions.into_iter().zip(answers) {
            written[at] = answer;
        }
    }
    Ok(written)
}

/// Writes generations of a project that has quotas: the first ones, as far as these allow.
async fn write_limited(pool: &PgPool, project: ProjectId, new: &[&New]) -> Result<Vec<Written>> {
    let mut tx = begin(pool).await?;
    let mut left = quota::left(&mut tx, project).await?;
    let taken: Vec<Result<()>> = new.iter().map(|one| left.take_job(request::own_bytes(&one.params))).collect();
    let admitted: Vec<&New> = new.iter().zip(&taken).filter(|(_, taken)| taken.is_ok()).map(|(one, _)| *one).collect();
    let mut written = insert(&mut *tx, &admitted, true).await?.into_iter();
    tx.commit().await?;
    let answer = |taken: Result<()>| match taken {
        Ok(()) => written.next().ok_or_else(|| Error::internal("a generation was not answered")),
        Err(error) => Ok(Written::Refused(error)),
    };
    taken.into_iter().map(answer).collect()
}

/// Steps of all pictures; 0 with an input picture, for which the engine leaves some out.
fn total_steps(params: &GenerationParams) -> i32 {
    let steps = if params.image.is_some() { 0 } else { params.num_inference_steps * params.num_images };
    i32::try_from(steps).unwrap_or(i32::MAX)
}

/// Writes them with their queued jobs, in one statement, except those that need a deleted model or input, and, unless
/// they are `admitted`, those of projects with quotas. The lock on the models and inputs makes a deletion wait; if the
/// deletion was first, nothing is locked. Callers of several projects may share the statement: each row gets its own
/// caller's project. Models and inputs were looked up in that project before.
pub(super) async fn insert(executor: impl PgExecutor<'_>, new: &[&New], admitted: bool) -> Result<Vec<Written>> {
    let column = |of: fn(&New) -> Uuid| new.iter().map(|one| of(one)).collect::<Vec<Uuid>>();
    let loras: Vec<(Uuid, i32, &NewLora)> = new
        .iter()
        .flat_map(|one| (0..).zip(&one.loras).map(|(position, lora)| (one.id.into(), position, lora)))
        .collect();
    let mut needed: Vec<Uuid> = new.iter().map(|one| one.model).chain(loras.iter().map(|lora| lora.2.model)).collect();
    needed.sort_unstable();
    needed.dedup();
    let inputs: Vec<(Uuid, Uuid)> =
        new.iter().flat_map(|one| request::inputs(&one.params).map(|input| (one.id.into(), input.into()))).collect();
    let warnings: Vec<Json<&[String]>> = new.iter().map(|one| Json(one.warnings.as_slice())).collect();
    let params: Vec<Json<&GenerationParams>> = new.iter().map(|one| Json(&one.params)).collect();
    let (mut deliveries, mut endpoints) = (NewDeliveries::default(), NewEndpoints::default());
    for one in new {
        deliveries.add(one.id.into(), &one.plan.uploads, one.archived, one.params.num_images);
        if let Some(endpoint) = &one.webhook {
            endpoints.add(one.id.into(), endpoint);
        }
    }
    let insert = sqlx::query!(
        r#"WITH needed AS (
             SELECT id, sha256 FROM models WHERE id = ANY($1) AND deleted_at IS NULL ORDER BY id FOR KEY SHARE
           ), used AS (
             SELECT * FROM unnest($8::uuid[], $9::int[], $10::uuid[], $11::float8[], $16::float8[])
               AS u(generation_id, position, model_id, scale, text_encoder_scale)
           ), begun AS (
             SELECT * FROM unnest($12::uuid[], $13::uuid[]) AS b(generation_id, input_id)
           ), there AS (
             SELECT id FROM inputs WHERE id = ANY($13) ORDER BY id FOR KEY SHARE
           ), requested AS (
             SELECT * FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::int[], $6::jsonb[], $7::int8[], $14::uuid[],
                                  $15::jsonb[], $17::uuid[], $18::int8[], $20::text[], $28::text[])
               AS a(id, retry_of, model_id, total_steps, params, seed, project_id, warnings, key_id, source_bytes,
                    response_format, account)
           ), refused AS (
             SELECT a.id FROM requested a JOIN projects p ON p.id = a.project_id WHERE p.limited AND NOT $19
           ), asked AS (
             SELECT * FROM requested a
             WHERE a.id NOT IN (SELECT id FROM refused) AND model_id IN (SELECT id FROM needed)
               AND NOT EXISTS (SELECT FROM used WHERE generation_id = a.id AND used.model_id NOT IN (SELECT id FROM needed))
               AND NOT EXISTS (SELECT FROM begun WHERE generation_id = a.id AND input_id NOT IN (SELECT id FROM there))
           ), job AS (
             INSERT INTO jobs (id, subject, kind, total_steps, last_sequence, base_sha256, retry_of, project_id, key_id,
                               account)
             SELECT asked.id, asked.id, 'generation', total_steps, 1, sha256, retry_of, project_id, key_id, account
             FROM asked JOIN needed ON needed.id = model_id
             RETURNING id, created_at
           ), queued AS (
             INSERT INTO job_events (job_id, sequence, kind) SELECT id, 1, 'queued' FROM job
           ), generation AS (
             INSERT INTO generations (id, job_id, model_id, params, seed, created_at, project_id, warnings,
                                      source_bytes, response_format)
             SELECT id, id, model_id, params, seed, created_at, project_id, warnings, source_bytes, response_format
             FROM asked JOIN job USING (id)
             RETURNING id, created_at
           ), sent AS (
             SELECT d.*, project_id
             FROM unnest($21::uuid[], $22::uuid[], $23::text[], $24::int[], $25::text[], $26::text[], $27::jsonb[])
               AS d(id, job_id, target, position, url, query, headers)
             JOIN asked ON asked.id = d.job_id JOIN projects p ON p.id = asked.project_id
             WHERE d.target <> 'archive' OR p.archived
           ), delivery AS (
             INSERT INTO deliveries (id, project_id, job_id, target, position, url, status)
             SELECT id, project_id, job_id, target, position, url, 'waiting' FROM sent
           ), secret AS (
             INSERT INTO delivery_secrets (delivery_id, query, headers)
             SELECT id, query, headers FROM sent WHERE target = 'upload'
           ), webhook AS (
             INSERT INTO job_webhooks (job_id, url, query, had_query, events)
             SELECT job_id, url, query, query IS NOT NULL, string_to_array(events, ',')
             FROM unnest($29::uuid[], $30::text[], $31::text[], $32::text[]) AS w(job_id, url, query, events)
             JOIN asked ON asked.id = w.job_id
           ), need AS (
             INSERT INTO job_needs (job_id, model_id)
             SELECT id, model_id FROM asked UNION SELECT generation_id, used.model_id FROM used JOIN asked ON asked.id = generation_id
           ), lora AS (
             INSERT INTO generation_loras (generation_id, position, model_id, scale, text_encoder_scale)
             SELECT generation_id, position, model_id, scale, text_encoder_scale
             FROM used JOIN generation ON generation.id = generation_id
           )
           SELECT id AS "id!: GenerationId", created_at FROM generation
           UNION ALL SELECT id, NULL FROM refused"#,
        &needed,
        &column(|one| one.id.into()),
        &new.iter().map(|one| one.retry_of.map(|job| job.0)).collect::<Vec<_>>() as &[Option<Uuid>],
        &column(|one| one.model),
        &new.iter().map(|one| total_steps(&one.params)).collect::<Vec<_>>(),
        &params as _,
        &new.iter().map(|one| one.seed).collect::<Vec<_>>(),
        &loras.iter().map(|lora| lora.0).collect::<Vec<_>>(),
        &loras.iter().map(|lora| lora.1).collect::<Vec<_>>(),
        &loras.iter().map(|lora| lora.2.model).collect::<Vec<_>>(),
        &loras.iter().map(|lora| lora.2.scale).collect::<Vec<_>>(),
        &inputs.iter().map(|input| input.0).collect::<Vec<_>>(),
        &inputs.iter().map(|input| input.1).collect::<Vec<_>>(),
        &column(|one| one.caller.project().into()),
        &warnings as _,
        &loras.iter().map(|lora| lora.2.text_encoder_scale).collect::<Vec<_>>() as &[Option<f64>],
        &new.iter().map(|one| one.caller.key().map(Uuid::from)).collect::<Vec<_>>() as &[Option<Uuid>],
        &new.iter().map(|one| request::own_bytes(&one.params)).collect::<Vec<_>>(),
        admitted,
        &new.iter().map(|one| one.plan.format.as_str().to_owned()).collect::<Vec<_>>(),
        &deliveries.ids,
        &deliveries.jobs,
        &deliveries.targets,
        &deliveries.positions,
        &deliveries.urls as &[Option<String>],
        &deliveries.queries as &[Option<String>],
        &deliveries.headers as &[Option<serde_json::Value>],
        &new.iter().map(|one| one.caller.account().map(str::to_owned)).collect::<Vec<_>>() as &[Option<String>],
        &endpoints.jobs,
        &endpoints.urls,
        &endpoints.queries as &[Option<String>],
        &endpoints.events,
    );
    let written: HashMap<GenerationId, Written> = bounded(insert.fetch_all(executor))
        .await?
        .into_iter()
        .map(|row| (row.id, row.created_at.map_or(Written::Limited, Written::At)))
        .collect();
    Ok(new.iter().map(|one| written.get(&one.id).cloned().unwrap_or(Written::Deleted)).collect())
}
