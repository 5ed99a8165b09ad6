//! One row a case, for a spreadsheet: those on both sides, then those on one.

use crate::report::text::{csv_line, number};
use ridgepoint_core::compare::{Comparison, Figure, Which};

const COLUMNS: &str = "case,device,unit,lower_is_better,a_provider,a,a_roof,a_roof_kind,a_fraction,a_watts,a_per_watt,a_runs,\
a_samples,b_provider,b,b_roof,b_roof_kind,b_fraction,b_watts,b_per_watt,b_runs,b_samples,ratio,ratio_low,ratio_high,\
ratio_per_watt,change,regressed,reason,notes\n";

pub(super) fn render(c: &Comparison) -> String {
    let mut text = COLUMNS.to_owned();
    for p in &c.pairs {
        let [a, b] = [fields(&p.a), fields(&p.b)];
        let [a1, a2, a3, a4, a5, a6, a7, a8, a9] = a;
        let [b1, b2, b3, b4, b5, b6, b7, b8, b9] = b;
        text += &csv_line([
            p.case.clone(),
            p.device.clone().unwrap_or_default(),
            p.unit.into(),
            p.lower_is_better.to_string(),
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            a8,
            a9,
            b1,
            b2,
            b3,
            b4,
            b5,
            b6,
            b7,
            b8,
            b9,
            number(Some(p.ratio.value)),
            number(p.ratio.low),
            number(p.ratio.high),
            number(p.ratio_per_watt),
            p.change.name().into(),
            p.regressed.to_string(),
            String::new(),
            p.notes.join("; "),
        ]);
    }
    for s in &c.single {
        let mut line: [String; 30] = Default::default();
        let at = if s.only == Which::A { 4 } else { 13 };
        (line[0], line[1], line[2]) = (s.case.clone(), s.device.clone().unwrap_or_default(), s.unit.into());
        (line[at], line[at + 1]) = (s.provider.clone(), number(Some(s.value)));
        (line[26], line[28]) = (format!("only {}", s.only.name()), super::absence(s));
        text += &csv_line(line);
    }
    text
}

fn fields(f: &Figure) -> [String; 9] {
    [
        f.provider.clone(),
        number(Some(f.value)),
        number(f.roof),
        f.roof_kind.unwrap_or_default().into(),
        number(f.fraction),
        number(f.watts),
        number(f.per_watt),
        f.runs.to_string(),
        f.samples.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_header_has_a_name_for_each_field() {
        assert_eq!(super::COLUMNS.trim_end().split(',').count(), 30);
    }
}
