//! Tables of captions: one object a line (`metadata.jsonl`) or one record a line (`metadata.csv`), which name a picture
//! relative to the table's folder and its caption.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{LeftOut, text};

/// Column that names the picture, and those that may hold its caption, the first that is there.
const FILE: &str = "file_name";
const CAPTIONS: [&str; 3] = ["text", "caption", "prompt"];
/// Most faults of one table that are listed.
const LISTED: usize = 20;

/// A caption from a table.
pub(super) struct Row {
    pub caption: String,
    pub table: String,
}

/// The captions of all tables by the composed path of their picture. Errors are added to `left_out`.
pub(super) fn rows(
    tables: Vec<(String, Vec<u8>)>,
    pictures: &[(usize, String)],
    left_out: &mut Vec<LeftOut>,
) -> HashMap<String, Row> {
    let known: HashSet<String> = pictures.iter().map(|(_, path)| super::composed(path)).collect();
    let mut rows = HashMap::new();
    for (table, bytes) in tables {
        let mut faults = Faults { table: &table, count: 0, left_out };
        let read = match text::read(&bytes) {
            Ok(text) if table.to_ascii_lowercase().ends_with(".csv") => csv(&text, &mut faults),
            Ok(text) => lines(&text, &mut faults),
            Err(why) => {
                faults.add(format!("The table {why}."));
                continue;
            }
        };
        let folder = table.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, file, caption) in read {
            let path = super::composed(&super::normal(&format!("{folder}/{file}")));
            if known.contains(&path) {
                rows.entry(path).or_insert(Row { caption: text::clean(&caption), table: table.clone() });
            } else {
                faults.add(format!("In line {line}: there is no picture `{file}`."));
            }
        }
        faults.finish();
    }
    rows
}

/// Adds the errors in a table to the list, at most [`LISTED`] times.
struct Faults<'a> {
    table: &'a str,
    count: usize,
    left_out: &'a mut Vec<LeftOut>,
}

impl Faults<'_> {
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
