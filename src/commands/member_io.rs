//! The table of `detail` about each member's device: its operations, their errors, and their latency.
//!
//! ```text
//!     SLOT  SERIAL  I/O     COUNT  BYTES     ERRORS  P50      P90      P99       P99.9    MAX
//!     0     S5Y1    reads   1,234  4.82 MiB  0       81.9 us  98.3 us  163.8 us  1.05 ms  2.31 ms
//!                   writes  ...
//! ```

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use engine::status::{ArrayStatus, MemberCounters, TransferCounters};

use crate::units::{about_ns, about_size, grouped};

const HEADER: [&str; 11] =
    ["SLOT", "SERIAL", "I/O", "COUNT", "BYTES", "ERRORS", "P50", "P90", "P99", "P99.9", "MAX"];

/// The table; empty if no member has a device.
pub fn table(status: &ArrayStatus) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(HEADER);
    let with_device = || status.members.iter().filter_map(|member| Some((member, member.io?)));
    if with_device().next().is_none() {
        return String::new();
    }
    for (member, io) in with_device() {
        let serial = member.serial.as_deref().unwrap_or("-");
        let mut head = [member.slot.to_string(), serial.to_string()];
        for line in lines(&io) {
            table.add_row(std::mem::take(&mut head).into_iter().chain(line));
        }
    }
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_string() + "\n").collect()
}

/// The lines of a member: one for reads, one for writes, and one each for flushes and deallocations if there
/// were any.
fn lines(io: &MemberCounters) -> Vec<Vec<String>> {
    let rare = [("flushes", io.flushes, io.flush_errors), ("deallocations", io.deallocations, 0)];
    let rare = rare.into_iter().filter(|(_, count, errors)| count + errors > 0);
    let rare =
        rare.map(|(kind, count, errors)| vec![kind.into(), grouped(count), "-".into(), grouped(errors)]);
    [transfers("reads", &io.reads), transfers("writes", &io.writes)].into_iter().chain(rare).collect()
}

fn transfers(kind: &str, of: &TransferCounters) -> Vec<String> {
    let mut line = vec![kind.to_string(), grouped(of.count), about_size(of.bytes), grouped(of.errors)];
    if let Some(took) = of.latency_ns {
        line.extend([took.p50, took.p90, took.p99, took.p999, took.max].map(about_ns));
    }
    line
}

#[cfg(test)]
mod tests {
    use engine::status::LatencyNs;

    use super::*;
    use crate::control::tests::example_status;

    #[test]
    fn the_table() {
        let mut status = example_status("media");
        let took = LatencyNs { p50: 81_919, p90: 98_303, p99: 163_839, p999: 1_048_575, max: 2_310_000 };
        let reads = TransferCounters { count: 1234, bytes: 1234 << 12, errors: 7, latency_ns: Some(took) };
        status.members[0].io = Some(MemberCounters { reads, flushes: 3, ..MemberCounters::default() });
        (status.members[1].io, status.members[2].serial) = (None, None);
        assert_eq!(
            table(&status),
            "SLOT  SERIAL  I/O      COUNT  BYTES     ERRORS  P50      P90      P99       P99.9    MAX\n\
             0     S0      reads    1,234  4.82 MiB  7       81.9 us  98.3 us  163.8 us  1.05 ms  2.31 ms\n\
            \x20             writes   0      0 B       0\n\
            \x20             flushes  3      -         0\n\
             2     -       reads    0      0 B       0\n\
            \x20             writes   0      0 B       0\n"
        );
        status.members.iter_mut().for_each(|member| member.io = None);
        assert_eq!(table(&status), "");
    }
}
