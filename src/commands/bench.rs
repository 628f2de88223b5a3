//! `bench`: measures the engine without a front end.

use std::fmt::Write;

use engine::bench::{BenchMember, BenchOptions, BenchReport, UblkNull, run};
use engine::format::Shape;
use engine::server::{ServerError, UblkFeature};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::Bench;
use crate::documents::NullDevice;
use crate::failure::{Context, Failure, Outcome, Result};
use crate::output::{json_line, print, print_json};
use crate::units::{about_ns, about_rate, about_size, exact_size, grouped};

/// Measures and reports. Requests that ended with an error are a problem.
pub fn bench(options: &Bench) -> Result<Outcome> {
    if let Some(size_bytes) = options.ublk_null {
        let without: Vec<_> = options.ublk_without.iter().map(|&feature| feature.into()).collect();
        return ublk_null(size_bytes, options, &without);
    }
    let engine_options = engine_options(options)?;
    let report = run(&engine_options)?;
    if options.json {
        print_json(&report)?
    } else {
        print(&text(&report))?
    }
    Ok(if report.errors == 0 { Outcome::Fine } else { Outcome::Problem })
}

/// Serves a block device that stores nothing, until a signal.
fn ublk_null(size_bytes: u64, options: &Bench, without: &[UblkFeature]) -> Result<Outcome> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context(|| "cannot catch signals".into())?;
    let null = UblkNull::start(size_bytes, options.cores, without).map_err(ServerError::from)?;
    if options.json {
        print(&json_line(&NullDevice { event: "ready", path: &null.path() })?)?;
    } else {
        print(&format!("ready: null ublk {}\n", null.path()))?;
    }
    let _signal = signals.forever().next();
    null.stop().map_err(ServerError::from)?;
    Ok(Outcome::Fine)
}

fn engine_options(options: &Bench) -> Result<BenchOptions> {
    let members = options.members.0.clone();
    let shape = Shape { level: options.level, members: members.len(), chunk_bytes: options.chunk };
    shape.check().map_err(|error| Failure::usage(error.to_string()))?;
    if let Some(slot) = options.degraded.filter(|slot| *slot >= members.len()) {
        return Err(Failure::usage(format!("no slot {slot}: there are {} members", members.len())));
    }
    if options.verify && members.iter().any(|member| matches!(member, BenchMember::Null { .. })) {
        return Err(Failure::usage("cannot verify: null members keep nothing: use mem: or files"));
    }
    Ok(BenchOptions {
        level: options.level,
        members,
        chunk_bytes: options.chunk,
        pattern: options.rw.into(),
        read_percent: options.rwmixread,
        block_bytes: options.bs,
        queue_depth: options.qd,
        cores: options.cores,
        seconds: options.secs,
        degraded: options.degraded,
        verify: options.verify,
    })
}

fn text(report: &BenchReport) -> String {
    let (config, latency, ceilings) = (&report.config, &report.latency_ns, &report.ceilings);
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        writeln!(text, "{key:>22}  {value}").expect("a string takes all");
    };
    line("load", load(config));
    line("requests", format!("{}/s", grouped(report.iops as u64)));
    line("throughput", about_rate(report.bytes_per_s as u64));
    line(
        "latency",
        format!(
            "p50 {}, p99 {}, p99.9 {}, max {}",
            about_ns(latency.p50),
            about_ns(latency.p99),
            about_ns(latency.p999),
            about_ns(latency.max)
        ),
    );
    line("member I/Os", format!("{:.2} a request", report.member_ios_per_request));
    line("CPU", format!("{:.0} ns a request", report.cpu_ns_per_request));
    if report.errors > 0 {
        line("ERRORS", grouped(report.errors));
    }
    if config.verify {
        line("verified", about_size(report.verified_bytes));
    }
    let share = |ceiling: f64, reached: f64| format!("{:.1} % of it", 100.0 * reached / ceiling.max(1.0));
    for (key, ceiling) in [
        ("ceiling: generator", ceilings.generator_iops),
        ("ceiling: members", ceilings.members_iops),
        ("ceiling: formula", ceilings.formula_iops),
    ] {
        if let Some(iops) = ceiling {
            line(key, format!("{}/s, {}", grouped(iops as u64), share(iops, report.iops)));
        }
    }
    if let Some(rate) = ceilings.members_bytes_per_s {
        line(
            "ceiling: bandwidth",
            format!("{}, {}", about_rate(rate as u64), share(rate, report.bytes_per_s)),
        );
    }
    for (key, ceiling) in [
        ("parity in cache", ceilings.parity_hot_bytes_per_s),
        ("parity out of cache", ceilings.parity_cold_bytes_per_s),
    ] {
        if let Some(rate) = ceiling {
            line(key, format!("{} a core", about_rate(rate as u64)));
        }
    }
    text
}

/// Describes the load: `raid5 of 5 (null:1T*5), chunk 64K: randwrite 4K, 128 in flight on 1 core, 3 s`.
fn load(config: &BenchOptions) -> String {
    let pattern = serde_json::to_value(config.pattern).ok();
    let mut text = format!(
        "raid{} of {} ({}), chunk {}: {} {}, {} in flight on {}, {} s",
        config.level.number(),
        config.members.len(),
        specs(&config.members),
        exact_size(config.chunk_bytes.into()),
        pattern.as_ref().and_then(|value| value.as_str()).unwrap_or("?"),
        exact_size(config.block_bytes.into()),
        config.queue_depth,
        if config.cores == 1 { "1 core".to_string() } else { format!("each of {} cores", config.cores) },
        config.seconds,
    );
    if let Some(slot) = config.degraded {
        text += &format!(", without slot {slot}");
    }
    text
}

/// The members in the form of the command line.
fn specs(members: &[BenchMember]) -> String {
    let runs = members.chunk_by(|one, other| one == other).map(|run| {
        let one = match &run[0] {
            BenchMember::Null { bytes } => format!("null:{}", exact_size(*bytes)),
            BenchMember::Memory { bytes } => format!("mem:{}", exact_size(*bytes)),
            BenchMember::File { path } => path.display().to_string(),
        };
        if run.len() > 1 { format!("{one}*{}", run.len()) } else { one }
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use engine::bench::{BenchCeilings, BenchLatency};
    use engine::server::Level;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn parsed(words: &str) -> Result<BenchOptions> {
        let cli =
            Cli::try_parse_from(["striate", "bench"].into_iter().chain(words.split_whitespace())).unwrap();
        let Verb::Bench(options) = cli.verb else { unreachable!() };
        engine_options(&options)
    }

    #[test]
    fn the_load_in_words() {
        let config = parsed("--level 6 --members null:1T*5,mem:64M --rw randwrite --degraded 5").unwrap();
        assert_eq!(config.level, Level::Raid6);
        assert_eq!(
            load(&config),
            "raid6 of 6 (null:1T*5,mem:64M), chunk 64K: randwrite 4K, 128 in flight on 1 core, 3 s, \
             without slot 5"
        );
    }

    #[test]
    fn what_cannot_be() {
        assert!(parsed("--degraded 5").is_err());
        assert!(parsed("--verify").is_err());
        assert!(parsed("--verify --members mem:64M*3").is_ok());
    }

    #[test]
    fn the_report_as_json() {
        let report = BenchReport {
            iops: 5e6,
            bytes_per_s: 2e10,
            latency_ns: BenchLatency { p50: 800, p99: 12_345, p999: 1_000_000, max: 2_000_000_000 },
            member_ios_per_request: 1.0,
            cpu_ns_per_request: 180.0,
            errors: 0,
            verified_bytes: 0,
            ceilings: BenchCeilings { generator_iops: Some(1e7), ..BenchCeilings::default() },
            config: parsed("").unwrap(),
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["config"]["level"], 5);
        assert_eq!(json["config"]["pattern"], "randread");
        assert_eq!(json["latency_ns"]["p99"], 12_345);
        let text = text(&report);
        assert!(text.contains("requests  5,000,000/s\n"), "{text}");
        assert!(text.contains("p50 800 ns, p99 12.3 us, p99.9 1.00 ms, max 2.00 s\n"), "{text}");
        assert!(text.contains("ceiling: generator  10,000,000/s, 50.0 % of it\n"), "{text}");
    }
}
