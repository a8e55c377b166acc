//! Printing results: aligned tables for people, JSON for programs.

use std::io::{self, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::OutputFormat;

/// Something that prints as a row of a table.
pub trait Row: Serialize {
    /// The columns' headings; one that begins with `>` is aligned to the right.
    const HEADINGS: &'static [&'static str];
    /// The cells, one per heading.
    fn cells(&self) -> Vec<String>;
}

/// Something that prints as one thing with named properties.
pub trait Card: Serialize {
    /// Name and value, in the order printed; empty values are left out.
    fn properties(&self) -> Vec<(&'static str, String)>;
    /// What is printed below them.
    fn below(&self) -> Option<String> {
        None
    }
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: OutputFormat,
}

impl Output {
    /// To standard output, in that format.
    pub fn new(format: OutputFormat) -> Self {
        Self { format }
    }

    /// Whether programs read it.
    pub fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Several things of a kind; `nothing` is what a person is told when there are none.
    pub fn rows<T: Row>(self, rows: &[T], nothing: &str) -> Result<()> {
        if self.is_json() {
            return json(&rows, true);
        }
        if rows.is_empty() {
            line(nothing)
        } else {
            line(&table(rows))
        }
    }

    /// One thing.
    pub fn card<T: Card>(self, card: &T) -> Result<()> {
        if self.is_json() {
            return json(card, true);
        }
        line(&properties(&card.properties()))?;
        card.below()
            .map_or(Ok(()), |below| line(&format!("\n{below}")))
    }

    /// What was done, in a sentence for people and as an object for programs.
    pub fn done<T: Serialize>(self, sentence: &str, object: &T) -> Result<()> {
        if self.is_json() {
            json(object, true)
        } else {
            line(sentence)
        }
    }

    /// One object of many, a line each.
    pub fn json_line<T: Serialize>(self, object: &T) -> Result<()> {
        json(object, false)
    }
}

/// Rows under headings, without lines around them.
pub fn table<T: Row>(rows: &[T]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(
        T::HEADINGS
            .iter()
            .map(|heading| heading.trim_start_matches('>').to_uppercase()),
    );
    for (place, heading) in T::HEADINGS.iter().enumerate() {
        let column = table
            .column_mut(place)
            .expect("the header has just made this column");
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row(row.cells());
    }
    trimmed(&table.to_string())
}

/// Names and values below each other.
pub fn properties(properties: &[(&str, String)]) -> String {
    let shown = || properties.iter().filter(|(_, value)| !value.is_empty());
    let width = shown()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let indent = format!("\n{:width$}  ", "");
    let lines =
        shown().map(|(name, value)| format!("{name:width$}  {}", value.replace('\n', &indent)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Prints a line to standard output.
pub fn line(text: &str) -> Result<()> {
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

fn json<T: Serialize + ?Sized>(value: &T, pretty: bool) -> Result<()> {
    let text = if pretty {
        serde_json::to_string_pretty(value)?
    } else {
        serde_json::to_string(value)?
    };
    line(&text)
}

fn trimmed(text: &str) -> String {
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Lane(&'static str, u64);

    impl Row for Lane {
        const HEADINGS: &'static [&'static str] = &["name", ">last"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string()]
        }
    }

    #[test]
    fn tables_are_aligned_and_have_no_trailing_space() {
        let text = table(&[Lane("a", 5), Lane("longer", 12_345)]);
        assert_eq!(text, "NAME     LAST\na           5\nlonger  12345");
    }

    #[test]
    fn properties_leave_out_what_is_empty_and_indent_further_lines() {
        let text = properties(&[
            ("name", "a".to_owned()),
            ("reason", String::new()),
            ("stages", "x\ny".to_owned()),
        ]);
        assert_eq!(text, "name    a\nstages  x\n        y");
    }
}
