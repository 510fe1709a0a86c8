//! `/v1/usage`: what a project has used, and what that costs.

use std::collections::BTreeSet;

use axum::Json;
use chrono::{Datelike as _, NaiveDate};
use domain::prices::Cost;
use domain::usage::{self, GroupUsage, UsageGroup, UsageRequest};
use domain::{Caller, Error, KeyId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::State;
use crate::extract::Query;
use crate::problem::Result;

/// The usage of a project over some days.
#[derive(Serialize, ToSchema)]
pub(crate) struct Usage {
    /// The first day, of UTC.
    pub from: NaiveDate,
    /// The last day.
    pub to: NaiveDate,
    /// Bytes that the project has stored now.
    #[schema(minimum = 0)]
    pub stored_bytes: i64,
    /// One for each group that has used something, in the order of days, models and keys.
    pub items: Vec<UsageOf>,
}

/// The usage of one group. A job belongs to the day on which it was created, and the device time of an attempt to the
/// day on which it ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageOf {
    /// Absent unless grouped by day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<NaiveDate>,
    /// Name of the checkpoint, or of the LoRA that was exported; null for other jobs. Absent unless grouped by model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub model: Option<Option<String>>,
    /// Key that asked for the jobs; null without one. Absent unless grouped by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<KeyId>)]
    pub key: Option<Option<KeyId>>,
    /// Account of the Hugging Face Hub whose token asked for the jobs; null without one. Absent unless grouped by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub account: Option<Option<String>>,
    /// Number of jobs that were created.
    #[schema(minimum = 0)]
    pub jobs: i64,
    /// Seconds for which the devices of workers were held, in attempts that have ended.
    #[schema(minimum = 0)]
    pub gpu_seconds: f64,
    /// Bytes of the results.
    #[schema(minimum = 0)]
    pub bytes: i64,
    /// By the server's table of prices. Absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// Which usage is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageQuery {
    /// The first day, of UTC: 29 days before the last one by default, and at most 365.
    #[param(value_type = Option<NaiveDate>, example = "2026-11-01")]
    pub from: Option<String>,
    /// The last day. Today by default.
    #[param(value_type = Option<NaiveDate>, example = "2026-11-30")]
    pub to: Option<String>,
    /// `day`, `model` and `key`, or some of them, with commas. By default all usage is one group.
    #[param(pattern = "^(day|model|key)(,(day|model|key))*$", example = "day,model")]
    pub group_by: Option<String>,
}

impl UsageQuery {
    fn read(self) -> Result<UsageRequest, Error> {
        let mut wrong = Vec::new();
        let mut note = |field: &str, message: String| wrong.push(Error::invalid(field, message));
        let mut day = |field: &str, text: Option<String>| {
            text.and_then(|text| {
                let message = format!("`{text}` is not a day such as `2026-01-31`.");
                let day = text.parse::<NaiveDate>().ok().filter(|day| (1970..=9999).contains(&day.year()));
                day.or_else(|| {
                    note(field, message);
                    None
                })
            })
        };
        let (from, to) = (day("from", self.from), day("to", self.to));
        let groups = self.group_by.as_deref().map_or(Ok(BTreeSet::new()), UsageGroup::read_list);
        let group_by = groups.map_err(|message| note("group_by", message)).unwrap_or_default();
        if wrong.is_empty() { Ok(UsageRequest { from, to, group_by }) } else { Err(Error::Several(wrong)) }
    }
}

impl From<GroupUsage> for UsageOf {
    fn from(group: GroupUsage) -> Self {
        let GroupUsage { day, model, key, account, jobs, gpu_seconds, bytes, cost } = group;
        Self { day, model, key, account, jobs, gpu_seconds, bytes, cost }
    }
}

/// Show what the project has used
#[utoipa::path(
    get, path = "/v1/usage", tag = "projects", operation_id = "get_usage",
    security(("key" = ["read"])),
    params(UsageQuery),
    responses((status = 200, description = "The usage in groups", body = Usage)),
)]
pub(crate) async fn get(caller: Caller, state: State, Query(query): Query<UsageQuery>) -> Result<Json<Usage>> {
    let usage::Usage { from, to, stored_bytes, groups } =
        usage::summary(&caller, &state.database, &query.read()?, state.prices.as_deref()).await?;
    Ok(Json(Usage { from, to, stored_bytes, items: groups.into_iter().map(UsageOf::from).collect() }))
}
