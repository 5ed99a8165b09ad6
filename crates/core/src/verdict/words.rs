//! Numbers as sentences show them.

/// Three significant digits or all before the point, no exponent: `0.0123`, `4.56`, `789`, `12345`.
pub(super) fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    if value == 0.0 {
        return "0".into();
    }
    let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.digits$}")
}

/// `1 case`, `3 cases`.
pub(super) fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_read_well() {
        let shown: Vec<_> = [0.0, 0.012_34, 4.561, 789.4, 12345.6, f64::NAN].map(super::figure).into();
        assert_eq!(shown, ["0", "0.0123", "4.56", "789", "12346", "–"]);
        assert_eq!((super::count(1, "case"), super::count(0, "case")), ("1 case".into(), "0 cases".into()));
    }
}
