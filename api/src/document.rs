//! The OpenAPI document before its paths: title, description, licence and tags. [`crate::router`] adds the routes to
//! it, and [`crate::openapi`] adds what all operations share.

use utoipa::openapi::{InfoBuilder, License, OpenApi, OpenApiBuilder, Tag};

/// The document without its paths.
pub(crate) fn document() -> OpenApi {
    let tag = |name: &str, description: &str| Tag::builder().name(name).description(Some(description)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Pyrograph")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Trains LoRA adapters and makes pictures on your own machines. Every error is a problem document \
                     (RFC 9457) that names the wrong fields. Lists are newest first, a page at a time. URLs of files \
                     are presigned when they are read and valid for one hour.",
                ))
                .license(Some(
                    License::builder().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build(),
                ))
                .build(),
        )
        .tags(Some([
            tag("generations", "Pictures from a prompt."),
            tag("trainings", "LoRAs from datasets."),
            tag("datasets", "Pictures with captions."),
            tag("models", "Checkpoints and LoRAs."),
            tag("jobs", "Work of every kind: generations, trainings, imports and exports."),
            tag("workers", "Worker processes and the models that they have loaded."),
            tag("health", "Liveness and readiness probes."),
        ]))
        .build()
}
