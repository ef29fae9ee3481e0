//! Tables for people.

/// A table with a title; all columns but the first are aligned to the right if they hold numbers only.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, heads: &[&str]) -> Self {
        Self { title: title.into(), rows: vec![heads.iter().map(|&head| head.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or(0)).collect();
        let numbers: Vec<bool> = (0..columns).map(|column| self.is_numbers(column)).collect();
        let mut text = format!("\n{}\n", self.title);
        for (at, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                line +=
                    &if numbers[column] { format!("  {cell:>width$}") } else { format!("  {cell:<width$}") };
            }
            text += line.trim_end();
            text.push('\n');
            if at == 0 {
                let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
                text += &format!("  {}\n", rule.join("  "));
            }
        }
        text
    }

    fn is_numbers(&self, column: usize) -> bool {
        let is_number = |cell: &String| cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit());
        self.rows.iter().skip(1).filter_map(|row| row.get(column)).all(is_number)
    }
}

/// A number with one digit behind the point.
pub(crate) fn short(number: f64) -> String {
    format!("{number:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let mut table = Table::new("Title", &["step", "ms"]);
        table.row(["create".to_owned(), "7.0".to_owned()]);
        table.row(["get".to_owned(), "120.5".to_owned()]);
        let expected = "\nTitle\n  step       ms\n  ------  -----\n  create    7.0\n  get     120.5\n";
        assert_eq!(table.text(), expected);
    }
}
