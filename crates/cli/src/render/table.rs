//! Aligned columns.

/// Rows under a heading. The last column is not padded.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &[&str]| {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            if !out.is_empty() {
                out.push_str("  ");
            }
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(&heading);
    for row in rows {
        line(&row.each_ref().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_the_letters() {
        let rows = [["größe".to_owned(), "1".to_owned()], ["a".to_owned(), "200".to_owned()]];
        assert_eq!(table(["ID", "N"], &rows), "ID     N\ngröße  1\na      200\n");
        assert_eq!(table(["ID", "N"], &[]), "ID  N\n");
    }
}
