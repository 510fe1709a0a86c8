//! A text table whose columns are as wide as their longest cell.

use crate::failure::Failure;
use crate::output::{escaped, say};

/// Rows of text under headings.
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) fn new(headings: [&str; COLUMNS]) -> Self {
        Self { rows: vec![headings.map(str::to_owned)] }
    }

    pub(crate) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| escaped(&cell).into_owned()));
    }

    pub(crate) fn print(&self) -> Result<(), Failure> {
        self.lines().iter().try_for_each(|line| say!("{line}"))
    }

    fn lines(&self) -> Vec<String> {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        let line = |row: &[String; COLUMNS]| {
            row.iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect::<String>()
                .trim_end()
                .to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_cell_widens_its_column() {
        let mut table = Table::new(["NAME", "KIND"]);
        table.row(["\u{1b}[2Jbrûlé\n".into(), "lora".into()]);
        assert_eq!(table.lines(), ["NAME              KIND", r"\u{1b}[2Jbrûlé\n  lora"]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", "KIND"]);
        table.row(["ember".into(), "checkpoint".into()]);
        table.row(["brûlé".into(), "lora".into()]);
        assert_eq!(table.lines(), ["NAME   KIND", "ember  checkpoint", "brûlé  lora"]);
    }
}
