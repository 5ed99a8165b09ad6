//! How numbers and foreign text are written, the same in every format.

use std::fmt::Write;

/// A number with three significant digits or more, no exponent: `0.0123`, `4.56`, `789`, `12345`.
pub(crate) fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.digits$}")
}

/// Text from a file or a driver, without control characters: nothing may move a reader's cursor.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `1 node`, `3 nodes`.
pub(crate) fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// A number for a machine, empty where there is none.
pub(super) fn number(x: Option<f64>) -> String {
    x.filter(|x| x.is_finite()).map(|x| x.to_string()).unwrap_or_default()
}

/// A field of a CSV file, quoted where it must be (RFC 4180); it stays on its line, since the file may be a terminal. A text that a
/// spreadsheet would take for a formula gets a leading quote mark.
pub(super) fn csv_field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '@', '\t', '\r']) || (text.starts_with('-') && text.parse::<f64>().is_err());
    let text = if formula { format!("'{}", clean(text)) } else { clean(text) };
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// One line of a CSV file.
pub(super) fn csv_line<const N: usize>(fields: [String; N]) -> String {
    fields.map(|f| csv_field(&f)).join(",") + "\n"
}

/// Text that Markdown takes as text: what could begin markup or HTML is escaped, and it stays on its line.
pub(super) fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        if "\\`*_[]<>|~#&".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    // A bare address becomes a link by itself in many readers.
    escaped.replace("://", ":\\//")
}

/// A Markdown table; columns named in `right` are aligned to the right. Cells are text already escaped.
pub(super) fn markdown_table<const N: usize>(head: [&str; N], right: &[&str], rows: &[[String; N]]) -> String {
    let mut text = format!("| {} |\n|", head.join(" | "));
    for name in head {
        text += if right.contains(&name) { "---:|" } else { "---|" };
    }
    text.push('\n');
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_kept_at_any_size() {
        let shown: Vec<_> = [0.0, 0.012_34, 4.561, 78.91, 789.4, 12345.6].map(significant).into();
        assert_eq!(shown, ["0", "0.0123", "4.56", "78.9", "789", "12346"]);
    }

    #[test]
    fn fields_are_quoted_and_formulas_defused() {
        assert_eq!(csv_field("a,b"), "\"a,b\"");
        assert_eq!(csv_field("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(csv_field("=1+1"), "'=1+1");
        assert_eq!(csv_field("-1.5"), "-1.5");
        assert_eq!(csv_field("a\n\u{1b}[2J"), "a\u{fffd}\u{fffd}[2J");
    }

    #[test]
    fn markup_is_text_in_markdown() {
        assert_eq!(markdown("a|b <img src=x> *x*\n"), "a\\|b \\<img src=x\\> \\*x\\*\u{fffd}");
        assert_eq!(markdown("http://x"), "http:\\//x");
        let table = markdown_table(["a", "n"], &["n"], &[["x".into(), "1".into()]]);
        assert_eq!(table, "| a | n |\n|---|---:|\n| x | 1 |\n");
    }
}
