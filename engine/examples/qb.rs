use engine::bench::*;
use engine::server::Level;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let pattern = match a[1].as_str() {
        "randread" => BenchPattern::RandRead,
        "randwrite" => BenchPattern::RandWrite,
        "write" => BenchPattern::Write,
        "read" => BenchPattern::Read,
        _ => BenchPattern::RandRw,
    };
    let bs: u32 = a[2].parse().unwrap();
    let qd: usize = a[3].parse().unwrap();
    let n: usize = a[5].parse().unwrap();
    let verify = a.len() > 6 && a[6] == "v";
    let degraded = if a.len() > 7 { a[7].parse().ok() } else { None };
    let cores = if a.len() > 8 { a[8].parse().unwrap() } else { 1 };
    let level = if a.len() > 9 && a[9] == "6" { Level::Raid6 } else { Level::Raid5 };
    let m = match a[4].as_str() {
        "null" => BenchMember::Null { bytes: 1 << 40 },
        _ => BenchMember::Memory { bytes: 256 << 20 },
    };
    let o = BenchOptions {
        level,
        members: vec![m; n],
        chunk_bytes: 65536,
        pattern,
        read_percent: 70,
        block_bytes: bs,
        queue_depth: qd,
        cores,
        seconds: 2.0,
        degraded,
        verify,
    };
    match run(&o) {
        Ok(r) => {
            println!(
                "{:.0} iops {:.2} GiB/s ios/req {:.2} cpu {:.0} ns p50 {} p99 {} err {} ver {} MiB",
                r.iops,
                r.bytes_per_s / (1u64 << 30) as f64,
                r.member_ios_per_request,
                r.cpu_ns_per_request,
                r.latency_ns.p50,
                r.latency_ns.p99,
                r.errors,
                r.verified_bytes >> 20
            );
            println!("{:?}", r.ceilings)
        }
        Err(e) => println!("ERR {e}"),
    }
}
