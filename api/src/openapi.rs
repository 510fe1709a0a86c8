//! The contract, made from the routes without a server. What every operation has in common, its problems, is added here once
//! instead of at each handler.

use std::sync::OnceLock;

use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Ref, RefOr, Response, ResponseBuilder, Tag,
};
use utoipa::{PartialSchema, ToSchema};

use crate::problem::{MEDIA_TYPE, Problem};
use crate::router;

/// The OpenAPI document.
pub fn openapi() -> OpenApi {
    let (_, mut document) = router::routes().split_for_parts();
    if let Some(components) = &mut document.components {
        let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
        Problem::schemas(&mut schemas);
        components.schemas.extend(schemas);
    }
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        add_problems(operation);
    }
    document
}

/// The document as it is served.
pub(crate) fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| openapi().to_json().unwrap_or_default())
}

/// The document without its paths.
pub(crate) fn document() -> OpenApi {
    let tag = |name: &str, description: &str| Tag::builder().name(name).description(Some(description)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Pyrograph")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Trains LoRA adapters and makes pictures on machines of your own. Every error is a problem after RFC 9457 that \
                     names the fields that are wrong. Lists are newest first, a page at a time. URLs of files are presigned when \
                     they are read and live for one hour.",
                ))
                .license(Some(License::builder().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build()))
                .build(),
        )
        .tags(Some([
            tag("generations", "Pictures from a prompt."),
            tag("trainings", "LoRAs from datasets."),
            tag("datasets", "Pictures with captions."),
            tag("models", "Checkpoints and LoRAs."),
            tag("jobs", "Work of every kind: generations, trainings, imports and exports."),
            tag("workers", "Who does the work, and which models are loaded."),
            tag("health", "For whoever watches over the process."),
        ]))
        .build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// Documents what any operation of its shape may answer, and gives every refusal the body of a problem.
fn add_problems(operation: &mut Operation) {
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    let takes = |place: ParameterIn| {
        parameters.iter().any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == place))
    };
    let mut problems = vec![(
        "503",
        "Database or storage cannot be reached, or there are too many requests; `Retry-After` tells when to try again",
    )];
    if operation.request_body.is_some() {
        problems.extend([
            ("400", "The body cannot be read"),
            ("408", "The body did not arrive in time"),
            ("413", "The body, or a file in it, is too large"),
            ("415", "The media type of the body, or of a file in it, is not taken"),
            ("422", "A value is not right; `errors` names the field"),
        ]);
    }
    if takes(ParameterIn::Query) {
        problems.push(("422", "A parameter is not right; `errors` names it"));
    }
    if takes(ParameterIn::Path) {
        problems.push(("404", "There is no such thing"));
    }
    for (status, description) in problems {
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(ResponseBuilder::new().description(description).build()));
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
        {
            give_problem(response);
        }
    }
}

fn give_problem(response: &mut Response) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    response.content.insert(MEDIA_TYPE.to_owned(), RefOr::T(content));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_tells_its_problems_and_has_a_name() {
        let mut document = openapi();
        let mut names = Vec::new();
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item) {
                names.push(
                    operation.operation_id.clone().unwrap_or_else(|| panic!("{path} has an operation without a name")),
                );
                assert!(operation.responses.responses.contains_key("503"), "{path}");
                assert_eq!(
                    path.contains('{'),
                    operation.responses.responses.contains_key("404") && path.contains('{'),
                    "{path}"
                );
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "two operations share a name");
        assert!(count >= 24, "{count}");
    }
}
