//! The contract, made from the routes without a server. What all operations have in common, their problems, is added
//! here once instead of at each handler.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use domain::project::MAX_NAME_CHARS;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::problem::{MEDIA_TYPE, Problem};
use crate::{project_choice, router};

/// The OpenAPI document.
pub fn openapi() -> OpenApi {
    let (_, mut document) = router::routes().split_for_parts();
    if let Some(components) = &mut document.components {
        let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
        Problem::schemas(&mut schemas);
        components.schemas.extend(schemas);
        name_variants(&mut components.schemas);
    }
    let schemas = document.components.as_ref().map(|components| components.schemas.clone()).unwrap_or_default();
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        add_project(operation);
        add_problems(operation);
        add_example(operation, &schemas);
    }
    document
}

/// Makes each variant of a tagged enum a schema with its own name: generators of clients drop or number nameless ones.
fn name_variants(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let mut named = Vec::new();
    for (name, schema) in schemas.iter_mut() {
        let RefOr::T(Schema::OneOf(choice)) = schema else { continue };
        for item in &mut choice.items {
            let RefOr::T(variant) = item else { continue };
            let Some(tag) = tag(variant) else { continue };
            let name = format!("{name}{}", pascal_case(&tag));
            let variant = std::mem::replace(item, Ref::from_schema_name(&name).into());
            named.push((name, variant));
        }
    }
    schemas.extend(named);
}

/// The value of the property `kind`, if the schema allows one alone.
fn tag(schema: &Schema) -> Option<String> {
    match schema {
        Schema::Object(object) => {
            let RefOr::T(Schema::Object(kind)) = object.properties.get("kind")? else { return None };
            match kind.enum_values.as_deref() {
                Some([value]) => value.as_str().map(str::to_owned),
                _ => None,
            }
        }
        Schema::AllOf(all) => all.items.iter().find_map(|item| match item {
            RefOr::T(part) => tag(part),
            RefOr::Ref(_) => None,
        }),
        _ => None,
    }
}

fn pascal_case(snake_case: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    snake_case.split('_').filter(|word| !word.is_empty()).map(capital).collect()
}

/// The document as it is served.
pub(crate) fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| openapi().to_json().unwrap_or_default())
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// Documents the header that names a project, which every operation with a caller takes.
fn add_project(operation: &mut Operation) {
    if operation.security.is_none() {
        return;
    }
    let name = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_NAME_CHARS))
        .pattern(Some("^[a-z0-9][a-z0-9_-]*$"));
    let parameter = ParameterBuilder::new()
        .name(project_choice::HEADER.as_str())
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "Project to work in, for keys with the scope `admin`; by default that of the key. Where no header can be \
             set, the query parameter `project` does the same.",
        ))
        .schema(Some(name))
        .build();
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
    for (status, description) in [("400", "The request cannot be read"), ("404", "There is no such thing")] {
        let response = RefOr::T(ResponseBuilder::new().description(description).build());
        operation.responses.responses.entry(status.to_owned()).or_insert(response);
    }
}

/// Documents the problems that any operation of this shape may return, and gives every refusal the body of a problem.
fn add_problems(operation: &mut Operation) {
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    let takes = |place: ParameterIn| {
        parameters.iter().any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == place))
    };
    let mut problems = vec![(
        "503",
        "Database or storage cannot be reached, or there are too many requests; `Retry-After` says when to try again",
    )];
    // The probes answer to every name.
    if operation.tags.as_ref().is_none_or(|tags| tags.iter().all(|tag| tag != "health")) {
        problems.extend([
            ("401", "The request carries no key, or one that is wrong, expired or revoked"),
            (
                "403",
                "The key lacks the scope, `Host` is not a name of this server, a page of another origin sent the \
                 request, or it came from another machine and the server has no key",
            ),
            (
                "429",
                "The key sends too many requests, a quota of the project is used up (`errors` names it, such as \
                 `quotas.queued_jobs`), or too many requests with a wrong key came from this address; `Retry-After` \
                 says when to try again",
            ),
        ]);
    }
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
        let RefOr::T(response) = response else { continue };
        if status.starts_with(['4', '5']) {
            give_problem(response);
        }
        // A schema of a stream would be that of one event to some readers, and that of the whole text to others.
        if let Some(RefOr::T(stream)) = response.content.get_mut("text/event-stream") {
            stream.schema = None;
        }
    }
}

/// Repeats the example of the body's schema at the body, where Swagger UI takes it from, also if the body is optional.
fn add_example(operation: &mut Operation, schemas: &BTreeMap<String, RefOr<Schema>>) {
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    let Some(RefOr::T(content)) = body.content.get_mut("application/json") else { return };
    let reference = match &content.schema {
        Some(RefOr::Ref(reference)) => Some(reference),
        Some(RefOr::T(Schema::OneOf(choice))) => choice.items.iter().find_map(|item| match item {
            RefOr::Ref(reference) => Some(reference),
            RefOr::T(_) => None,
        }),
        _ => None,
    };
    let name = reference.and_then(|reference| reference.ref_location.rsplit('/').next());
    if let Some(RefOr::T(Schema::Object(object))) = name.and_then(|name| schemas.get(name)) {
        content.example = object.example.clone();
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
    fn every_variant_has_a_name() {
        let schemas = openapi().components.unwrap().schemas;
        let RefOr::T(Schema::OneOf(sources)) = &schemas["Source"] else { panic!("`Source` has variants") };
        assert!(sources.items.iter().all(|item| matches!(item, RefOr::Ref(_))));
        assert!(schemas.contains_key("SourceHuggingFace") && schemas.contains_key("ModelInspectionLora"));
    }

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
