//! Lists, newest first, a page at a time. A cursor is opaque to clients: it holds the last id of the page before.

use std::borrow::Cow;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use requests::in_range;
use serde::Serialize;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::faults::Faults;
use crate::{Error, Result};

pub const DEFAULT_LIMIT: i64 = 20;
pub const MAX_LIMIT: i64 = 100;

/// One page of a list; without `next_cursor` it is the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next page.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The same page, with each item converted.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next_cursor: self.next_cursor }
    }

    /// The same page, with the items converted one after the other.
    pub async fn try_map<U, E, F>(self, mut f: impl FnMut(T) -> F) -> Result<Page<U>, E>
    where
        F: Future<Output = Result<U, E>>,
    {
        let mut items = Vec::with_capacity(self.items.len());
        for item in self.items {
            items.push(f(item).await?);
        }
        Ok(Page { items, next_cursor: self.next_cursor })
    }
}

/// In the OpenAPI document a page of `Model` is called `ModelPage`.
impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("{}Page", T::name()))
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let items = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let next_cursor = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("Pass it as `cursor` to get the next page; null on the last."));
        ObjectBuilder::new()
            .description(Some("One page of a list."))
            .property("items", items)
            .required("items")
            .property("next_cursor", next_cursor)
            .into()
    }
}

/// The page that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    limit: i64,
    before: Option<Uuid>,
}

impl Default for PageRequest {
    fn default() -> Self {
        PageRequest { limit: DEFAULT_LIMIT, before: None }
    }
}

impl PageRequest {
    /// # Errors
    /// `Invalid` for a limit outside 1..=100 and for a cursor that was never issued.
    pub fn parse(limit: Option<i64>, cursor: Option<&str>) -> Result<PageRequest> {
        let mut faults = Faults::default();
        let limit = faults.take(in_range("limit", limit.unwrap_or(DEFAULT_LIMIT), 1..=MAX_LIMIT));
        let before = faults.take(cursor.map(Cursor::from_str).transpose()).map(|cursor| cursor.0);
        faults.check()?;
        Ok(PageRequest { limit, before })
    }

    /// Only rows with an id below this one belong to the page.
    pub fn before(&self) -> Option<Uuid> {
        self.before
    }

    /// How many rows to fetch: one more than the page holds, to see whether there is a next one.
    pub fn fetch_limit(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts the fetched items, in descending order of `id`, down to the page.
    pub fn cut<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> Uuid) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or_default();
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(|last| Cursor(id(last)).to_string());
        Page { items, next_cursor }
    }
}

struct Cursor(Uuid);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| Uuid::from_slice(&bytes).ok())
            .map(Cursor)
            .ok_or_else(|| Error::invalid("cursor", "It is not one that a list has returned."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let mut ids: Vec<Uuid> = (0..7).map(|_| Uuid::now_v7()).collect();
        ids.reverse();
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let request = PageRequest::parse(Some(3), cursor.as_deref()).unwrap();
            let below = ids.iter().copied().filter(|id| request.before().is_none_or(|before| *id < before));
            let fetched: Vec<Uuid> = below.take(usize::try_from(request.fetch_limit()).unwrap()).collect();
            let page = request.cut(fetched, |id| *id);
            seen.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, ids);
    }

    #[test]
    fn refuses_foreign_cursors_and_limits_out_of_range() {
        for (limit, cursor) in [
            (Some(0), None),
            (Some(101), None),
            (Some(-1), None),
            (None, Some("")),
            (None, Some("abc")),
            (None, Some("%%%")),
        ] {
            assert!(matches!(PageRequest::parse(limit, cursor), Err(Error::Invalid { .. })), "{limit:?} {cursor:?}");
        }
    }
}
