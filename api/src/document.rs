//! The OpenAPI document before its paths: title, description, licence and tags. [`crate::router`] adds the routes to
//! it, and [`crate::openapi`] adds what all operations share.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Tag};

/// Name of the security scheme: a key.
pub(crate) const SCHEME: &str = "key";

/// The document without its paths.
pub(crate) fn document() -> OpenApi {
    let tag = |name: &str, description: &str| Tag::builder().name(name).description(Some(description)).build();
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("pyro_<id>_<secret>")
        .description(Some(
            "A key, as `Authorization: Bearer`, `Authorization: Key` or the password of HTTP Basic. Each operation \
             names the scope that it asks for. Where the operator admits them, tokens of the Hugging Face Hub count, \
             too, as `Authorization: Bearer`. An installation that never had a key asks for none and serves its own \
             machine only.",
        ))
        .build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Pyrograph")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Trains LoRA adapters and makes pictures on your own machines. Every error is a problem document \
                     (RFC 9457) that names the wrong fields, except where the request could not be read as HTTP: then \
                     the server answers 400, 414 or 431 without a body. Lists are newest first, a page at a time. \
                     URLs of files are presigned when they are read and valid for one hour.",
                ))
                .license(Some(
                    License::builder().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build(),
                ))
                .build(),
        )
        .components(Some(ComponentsBuilder::new().security_scheme(SCHEME, SecurityScheme::Http(key)).build()))
        .tags(Some([
            tag("generations", "Pictures from a prompt."),
            tag("trainings", "LoRAs from datasets."),
            tag("datasets", "Pictures with captions."),
            tag("models", "Checkpoints and LoRAs."),
            tag("jobs", "Work of every kind: generations, trainings, imports and exports."),
            tag("webhooks", "Endpoints that are notified of jobs."),
            tag("keys", "Who may call the API."),
            tag("projects", "Owners of everything that users make."),
            tag("workers", "Worker processes and the models that they have loaded."),
            tag("health", "Liveness and readiness probes."),
        ]))
        .build()
}
