//! Tables of captions: one object a line (`metadata.jsonl`) or one record a line (`metadata.csv`), which name a picture
//! relative to the table's folder and its caption.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::Value;

use super::{LeftOut, text};

/// Column that names the picture, and those that may hold its caption, the first that is there.
const FILE: &str = "file_name";
const CAPTIONS: [&str; 3] = ["text", "caption", "prompt"];
/// Most faults of one table that are listed.
const LISTED: usize = 20;

/// The rows of all tables of a folder, in the order in which they count.
#[derive(Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    /// By [`key`](super::key) of the picture's path.
    by_picture: HashMap<String, Vec<usize>>,
}

/// A caption from a table.
pub(super) struct Row {
    pub caption: String,
    pub table: String,
    line: usize,
    /// Composed path of the picture, and what the table calls it.
    picture: String,
    file: String,
    fate: Fate,
}

enum Fate {
    Unused,
    Used,
    /// Another row came first for this picture: its table and line.
    Second(String, usize),
}

impl Rows {
    /// Reads the tables. Those nearest to a picture count first, and of one folder `metadata.jsonl`. Errors are added
    /// to `left_out`.
    pub(super) fn read(mut tables: Vec<(String, Vec<u8>)>, left_out: &mut Vec<LeftOut>) -> Self {
        tables.sort_by_cached_key(|(table, _)| (Reverse(table.matches('/').count()), is_csv(table), table.clone()));
        let mut rows = Self::default();
        for (table, bytes) in tables {
            let mut faults = Faults::of(&table, left_out);
            let read = match text::read(&bytes) {
                Ok(text) if is_csv(&table) => csv(&text, &mut faults),
                Ok(text) => lines(&text, &mut faults),
                Err(why) => {
                    faults.add(format!("The table {why}."));
                    continue;
                }
            };
            faults.finish();
            let folder = table.rsplit_once('/').map_or("", |(folder, _)| folder);
            for (line, file, caption) in read {
                let picture = super::composed(&super::normal(&format!("{folder}/{file}")));
                rows.by_picture.entry(super::key(&picture)).or_default().push(rows.rows.len());
                let (caption, table) = (text::clean(&caption), table.clone());
                rows.rows.push(Row { caption, table, line, picture, file, fate: Fate::Unused });
            }
        }
        rows
    }

    /// The first row that names a picture: in the same case, otherwise in any.
    pub(super) fn of(&mut self, picture: &str) -> Option<&Row> {
        let mut found = self.by_picture.get(&super::key(picture))?.clone();
        let picture = super::composed(picture);
        found.sort_by_key(|index| self.rows[*index].picture != picture);
        let (first, others) = found.split_first()?;
        let place = (self.rows[*first].table.clone(), self.rows[*first].line);
        for other in others {
            if matches!(self.rows[*other].fate, Fate::Unused) {
                let is_same = self.rows[*other].caption == self.rows[*first].caption;
                self.rows[*other].fate = if is_same { Fate::Used } else { Fate::Second(place.0.clone(), place.1) };
            }
        }
        self.rows[*first].fate = Fate::Used;
        self.rows.get(*first)
    }

    /// Lists the rows that are no caption of a picture.
    pub(super) fn unused(self, left_out: &mut Vec<LeftOut>) {
        for rows in self.rows.chunk_by(|a, b| a.table == b.table) {
            let mut faults = Faults::of(&rows[0].table, left_out);
            for Row { line, file, fate, table, .. } in rows {
                match fate {
                    Fate::Used => {}
                    Fate::Unused => faults.add(format!("In line {line}: there is no picture `{file}`.")),
                    Fate::Second(first, at) if first == table => {
                        faults.add(format!("In line {line}: `{file}` has its caption from line {at}."));
                    }
                    Fate::Second(first, _) => {
                        faults.add(format!("In line {line}: `{file}` has its caption from `{first}`."));
                    }
                }
            }
            faults.finish();
        }
    }
}

fn is_csv(table: &str) -> bool {
    table.to_ascii_lowercase().ends_with(".csv")
}

/// Adds the errors in a table to the list, at most [`LISTED`] times.
struct Faults<'a> {
    table: &'a str,
    count: usize,
    left_out: &'a mut Vec<LeftOut>,
}

impl<'a> Faults<'a> {
    fn of(table: &'a str, left_out: &'a mut Vec<LeftOut>) -> Self {
        Self { table, count: 0, left_out }
    }

    fn add(&mut self, reason: String) {
        self.count += 1;
        if self.count <= LISTED {
            let reason = reason.chars().take(400).collect::<String>();
            self.left_out.push(LeftOut::new(self.table, reason));
        }
    }

    fn finish(self) {
        if self.count > LISTED {
            let reason = format!("{} more lines that are not used.", self.count - LISTED);
            self.left_out.push(LeftOut::new(self.table, reason));
        }
    }
}

/// Line, file and caption of each object of a `metadata.jsonl`.
fn lines(text: &str, faults: &mut Faults) -> Vec<(usize, String, String)> {
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let Ok(Value::Object(object)) = serde_json::from_str(text) else {
            faults.add(format!("In line {line}: this is not a JSON object."));
            continue;
        };
        let caption = CAPTIONS.iter().find_map(|column| object.get(*column)?.as_str());
        match (object.get(FILE).and_then(Value::as_str), caption) {
            (Some(file), Some(caption)) => rows.push((line, file.to_owned(), caption.to_owned())),
            (None, _) => faults.add(format!("In line {line}: there is no text `{FILE}`.")),
            (_, None) => faults.add(format!("In line {line}: there is no caption in `text`, `caption` or `prompt`.")),
        }
    }
    rows
}

/// Line, file and caption of each record of a `metadata.csv`, whose first line names the columns.
fn csv(text: &str, faults: &mut Faults) -> Vec<(usize, String, String)> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let Ok(columns) = reader.headers().cloned() else {
        faults.add("The table is not CSV.".to_owned());
        return Vec::new();
    };
    let column = |name: &str| columns.iter().position(|column| column.trim().eq_ignore_ascii_case(name));
    let Some((file, caption)) = column(FILE).zip(CAPTIONS.iter().find_map(|name| column(name))) else {
        faults.add(format!("The first line does not name the columns `{FILE}` and `text`, `caption` or `prompt`."));
        return Vec::new();
    };
    let mut rows = Vec::new();
    for record in reader.records() {
        let line = |position: Option<&csv::Position>| position.map_or(0, |position| position.line() as usize);
        match record {
            Ok(record) => match record.get(file).zip(record.get(caption)) {
                Some((file, caption)) => rows.push((line(record.position()), file.to_owned(), caption.to_owned())),
                None => faults.add(format!("In line {}: columns are missing.", line(record.position()))),
            },
            Err(error) => faults.add(format!("In line {}: this is not CSV.", line(error.position()))),
        }
    }
    rows
}
