//! The usage of a project over some days, in groups.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::stored_bytes;
use crate::prices::{Cost, Prices, Used};
use crate::{Caller, Database, Error, KeyId, ProjectId, Result, bounded};

/// Most days of a request.
const MAX_DAYS: i64 = 366;
/// Days of a request that names no first one.
const USUAL_DAYS: u64 = 30;
/// Most groups of an answer.
const MAX_GROUPS: usize = 10_000;

/// What the usage is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageGroup {
    /// Days of UTC.
    Day,
    /// Checkpoints, and LoRAs that are exported.
    Model,
    /// Keys that asked for the jobs, and accounts of the Hugging Face Hub.
    Key,
}

impl UsageGroup {
    /// The groups that a list such as `day,model` names. Errors: a sentence.
    pub fn read_list(text: &str) -> Result<BTreeSet<Self>, String> {
        let group = |name: &str| match name {
            "day" => Ok(Self::Day),
            "model" => Ok(Self::Model),
            "key" => Ok(Self::Key),
            other => Err(format!("`{other}` is not one of `day`, `model` and `key`.")),
        };
        text.split(',').map(group).collect()
    }
}

/// Which usage is asked for.
#[derive(Clone, Debug, Default)]
pub struct UsageRequest {
    /// The first day; 30 days by default.
    pub from: Option<NaiveDate>,
    /// The last day; today by default.
    pub to: Option<NaiveDate>,
    pub group_by: BTreeSet<UsageGroup>,
}

/// The usage of a project.
#[derive(Clone, Debug)]
pub struct Usage {
    pub from: NaiveDate,
    pub to: NaiveDate,
    /// Bytes that the project has stored now.
    pub stored_bytes: i64,
    pub groups: Vec<GroupUsage>,
}

/// The usage of one group. What it is not grouped by is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupUsage {
    pub day: Option<NaiveDate>,
    /// `Some(None)` for jobs without a model, such as imports.
    pub model: Option<Option<String>>,
    /// `Some(None)` for jobs that were asked for without a key.
    pub key: Option<Option<KeyId>>,
    /// The account of the Hugging Face Hub, when grouped by key; `Some(None)` for jobs that were asked for without one.
    pub account: Option<Option<String>>,
    /// Jobs that were created.
    pub jobs: i64,
    /// Seconds for which devices were held, in attempts that have ended.
    pub gpu_seconds: f64,
    /// Bytes of the results of these jobs.
    pub bytes: i64,
    /// By the table of prices, if there is one.
    pub cost: Option<Cost>,
}

type Group = (Option<NaiveDate>, Option<Option<String>>, Option<(Option<KeyId>, Option<String>)>);

#[derive(Default)]
struct Sum {
    jobs: i64,
    used: Used,
    amount: f64,
}

/// The usage of the caller's project, in groups. A job belongs to the day on which it was created, and the device time
/// of an attempt to the day on which it ended.
///
/// # Errors
/// `Invalid` for days that are not in order or too many, and for too many groups.
pub async fn summary(
    caller: &Caller,
    database: &Database,
    request: &UsageRequest,
    prices: Option<&Prices>,
) -> Result<Usage> {
    let (from, to) = days(request, Utc::now().date_naive())?;
    let (start, end) = (midnight(from), midnight(to + Days::new(1)));
    // The ids of jobs begin with the time. The clocks of servers may differ.
    let first = (start - TimeDelta::hours(1)).timestamp_millis().unsigned_abs();
    let rows = sqlx::query!(
        r#"SELECT u.day AS "day!", u.key_id AS "key: KeyId", u.account, (SELECT name FROM models WHERE id = u.model_id) AS model,
                  sum(u.jobs)::bigint AS "jobs!", sum(u.gpu_seconds) AS "gpu_seconds!", sum(u.bytes)::bigint AS "bytes!"
           FROM (
             SELECT (j.created_at AT TIME ZONE 'UTC')::date AS day, j.key_id, j.account, model_of_job(j.id) AS model_id,
                    1 AS jobs, 0::float8 AS gpu_seconds,
                    (SELECT coalesce(sum(a.bytes), 0) FROM artifacts a WHERE a.job_id = j.id) AS bytes
             FROM jobs j
             WHERE j.project_id = $1 AND j.subject >= $4 AND j.created_at >= $2 AND j.created_at < $3
             UNION ALL
             SELECT (t.ended_at AT TIME ZONE 'UTC')::date, j.key_id, j.account, model_of_job(j.id), 0, t.gpu_seconds, 0
             FROM attempts t JOIN jobs j ON j.id = t.job_id
             WHERE t.project_id = $1 AND t.ended_at >= $2 AND t.ended_at < $3
           ) AS u
           GROUP BY u.day, u.key_id, u.account, u.model_id"#,
        caller.project() as ProjectId,
        start,
        end,
        uuid::Builder::from_unix_timestamp_millis(first, &[0; 10]).into_uuid(),
    );
    let rows = bounded(rows.fetch_all(database.pool(caller))).await?;
    let by = |group| request.group_by.contains(&group);
    let mut groups: BTreeMap<Group, Sum> = BTreeMap::new();
    for row in rows {
        let used = Used { gpu_seconds: row.gpu_seconds, bytes: row.bytes };
        let amount = prices.map_or(0.0, |prices| prices.amount(row.model.as_deref(), used));
        let group = (
            by(UsageGroup::Day).then_some(row.day),
            by(UsageGroup::Model).then_some(row.model),
            by(UsageGroup::Key).then_some((row.key, row.account)),
        );
        let sum = groups.entry(group).or_default();
        sum.jobs += row.jobs;
        sum.used.gpu_seconds += used.gpu_seconds;
        sum.used.bytes += used.bytes;
        sum.amount += amount;
    }
    if groups.len() > MAX_GROUPS {
        let message = format!("There are more than {MAX_GROUPS} groups; ask for fewer days or other groups.");
        return Err(Error::invalid("group_by", message));
    }
    let group = |((day, model, asker), Sum { jobs, used, amount }): (Group, Sum)| {
        let (key, account) = asker.unzip();
        let cost = prices.map(|prices| prices.cost_of(amount));
        GroupUsage { day, model, key, account, jobs, gpu_seconds: used.gpu_seconds, bytes: used.bytes, cost }
    };
    let groups = groups.into_iter().map(group).collect();
    Ok(Usage { from, to, stored_bytes: stored_bytes(caller, database).await?, groups })
}

/// The first and the last day of a request.
fn days(request: &UsageRequest, today: NaiveDate) -> Result<(NaiveDate, NaiveDate)> {
    let to = request.to.unwrap_or(today);
    let from = request.from.unwrap_or(to - Days::new(USUAL_DAYS - 1));
    if from > to {
        return Err(Error::invalid("from", format!("{from} is after the last day, {to}.")));
    }
    if to - from >= TimeDelta::days(MAX_DAYS) {
        return Err(Error::invalid("from", format!("There are more than {MAX_DAYS} days from {from} to {to}.")));
    }
    Ok((from, to))
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_in_order_and_not_too_many() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let today = day("2026-11-30");
        let asked = |from: Option<&str>, to: Option<&str>| {
            days(&UsageRequest { from: from.map(day), to: to.map(day), ..UsageRequest::default() }, today)
        };
        assert_eq!(asked(None, None).unwrap(), (day("2026-11-01"), today));
        assert_eq!(asked(None, Some("2026-01-30")).unwrap().0, day("2026-01-01"));
        assert_eq!(asked(Some("2026-11-30"), None).unwrap(), (today, today));
        assert!(asked(Some("2025-11-30"), None).is_ok() && asked(Some("2025-11-29"), None).is_err());
        assert!(asked(Some("2026-12-01"), None).is_err());
    }

    #[test]
    fn groups_are_named() {
        assert_eq!(UsageGroup::read_list("key,day,key"), Ok([UsageGroup::Day, UsageGroup::Key].into()));
        for wrong in ["", "day,", "Day", "day, model", "project"] {
            assert!(UsageGroup::read_list(wrong).unwrap_err().contains("`day`, `model` and `key`"), "{wrong}");
        }
    }
}
