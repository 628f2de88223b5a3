//! `scrub`: reads every stripe of a stopped array and compares its parity.

use engine::server::{Progress, ScrubReport, scrub_offline};

use crate::cli::Scrub;
use crate::failure::{Outcome, Result};
use crate::meter::Meter;
use crate::output::{print, print_json};
use crate::units::grouped;

use super::scan;

/// Compares and reports. A mismatch is a problem.
pub fn scrub(options: &Scrub) -> Result<Outcome> {
    let mut meter = Meter::new("scrub");
    let report = scrub_offline(
        &scan::members(&options.members, options.array.search())?,
        &mut |Progress { done_bytes, total_bytes }| {
            meter.update(done_bytes, total_bytes);
        },
    );
    drop(meter);
    let report = report?;
    if options.json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    Ok(if report.mismatch_count == 0 { Outcome::Fine } else { Outcome::Problem })
}

fn text(report: &ScrubReport) -> String {
    let mut text = format!(
        "{}: {} stripes compared, {} without data, {} not in sync and so not compared: {}\n",
        report.name,
        grouped(report.checked),
        grouped(report.unwritten),
        grouped(report.need_sync),
        match report.mismatch_count {
            0 if report.checked == 0 => "nothing was compared".to_string(),
            0 => "every parity matches".to_string(),
            count => format!("{} DO NOT MATCH", grouped(count)),
        }
    );
    if report.mismatch_count > 0 {
        let listed: Vec<String> = report.mismatches.iter().map(u64::to_string).collect();
        let more = report.mismatch_count.saturating_sub(report.mismatches.len() as u64);
        text += &format!("stripes {}", listed.join(" "));
        if more > 0 {
            text += &format!(" and {} more", grouped(more));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let fine = ScrubReport { name: "a".into(), checked: 1200, unwritten: 3, ..ScrubReport::default() };
        assert_eq!(
            text(&fine),
            "a: 1,200 stripes compared, 3 without data, 0 not in sync and so not compared: every parity matches\n"
        );
        let bad = ScrubReport { checked: 9, mismatches: vec![1, 5], mismatch_count: 4, ..fine };
        assert!(text(&ScrubReport::default()).ends_with("nothing was compared\n"));
        assert!(text(&bad).ends_with("4 DO NOT MATCH\nstripes 1 5 and 2 more\n"));
    }
}
