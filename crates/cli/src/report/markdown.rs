//! The tables for a ticket or a wiki.

use super::table::{line, unmeasured};
use super::text::{count, markdown, markdown_table};
use super::{Model, Row};
use ridgepoint_core::Component;
use std::fmt::Write;

const HEAD: [&str; 11] = ["device", "case", "by", "achieved", "", "roof", "%", "spread", "error", "MHz", "notes"];

pub(super) fn render(model: &Model) -> String {
    let mut text = String::from("# Ridgepoint report\n\n");
    for environment in &model.environments {
        for device in &environment.devices {
            let _ = writeln!(
                text,
                "- {} {}, {}, {}, ridgepoint {}, method {}",
                markdown(&device.id),
                markdown(&device.name),
                markdown(&environment.host),
                markdown(&environment.started),
                markdown(&environment.version),
                environment.method
            );
        }
    }
    for component in Component::ALL {
        let rows: Vec<&Row> = model.rows.iter().filter(|r| r.record.component == component && r.placement.is_some()).collect();
        let cells: Vec<[String; 11]> = rows
            .iter()
            .filter_map(|row| {
                let mut cells = line(row, row.placement.as_ref()?).into_iter();
                let device = markdown(&row.record.device);
                Some(std::array::from_fn(|i| if i == 0 { device.clone() } else { markdown(&cells.next().unwrap_or_default()) }))
            })
            .collect();
        if !cells.is_empty() {
            let _ = writeln!(
                text,
                "\n## {component}\n\n{}",
                markdown_table(HEAD, &["achieved", "roof", "%", "spread", "error", "MHz"], &cells)
            );
        }
    }
    let groups = unmeasured(model);
    if !groups.is_empty() {
        let rows: Vec<[String; 3]> = (groups.into_iter())
            .map(|((kind, reason), cases)| [kind.into(), markdown(&reason), markdown(&cases.join(", "))])
            .collect();
        let _ = writeln!(text, "\n## Not measured\n\n{}", markdown_table(["", "reason", "cases"], &[], &rows));
    }
    let measured = model.rows.iter().filter(|r| r.placement.is_some()).count();
    let _ = writeln!(
        text,
        "\n{}, each verified before and after it was timed. achieved: median; %: of the roof.",
        count(measured, "result")
    );
    text
}
