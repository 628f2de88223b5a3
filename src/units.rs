//! Sizes, rates and times as people write and read them.
//!
//! A size is a whole number of bytes with an optional power of 1024: `512`, `64K`, `64KiB`, `1G`, `16TiB`.
//! `KB` and similar units mean 1000 to some and 1024 to others, so they are refused instead of guessed.
//!
//! ```text
//!     parse_size      "64K" -> 65536          what an operator types
//!     exact_size      65536 -> "64K"          typed again, it gives the same number
//!     about_size      15360950534144 -> "14.0 TiB"    for reading, not for typing
//! ```

use std::time::Duration;

/// Each unit and its power of 1024.
const UNITS: [(char, u32); 5] = [('K', 1), ('M', 2), ('G', 3), ('T', 4), ('P', 5)];

/// Parses a size as an operator writes it, in bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    if digits.is_empty() {
        return Err("a size is a number with an optional K, M, G, T or P, as in 64K or 1GiB".into());
    }
    let number: u64 = digits.parse().map_err(|_| "the number is too large".to_string())?;
    number.checked_mul(unit_bytes(unit)?).ok_or_else(|| "the size is beyond 2^64 bytes".to_string())
}

fn unit_bytes(unit: &str) -> Result<u64, String> {
    if unit.is_empty() || unit == "B" {
        return Ok(1);
    }
    let letter = unit.chars().next().map_or(' ', |c| c.to_ascii_uppercase());
    let rest = &unit[unit.chars().next().map_or(0, char::len_utf8)..];
    match (UNITS.iter().find(|known| known.0 == letter), rest) {
        (Some((_, power)), "" | "iB" | "ib") => Ok(1024u64.pow(*power)),
        (Some(_), "B" | "b") => {
            Err(format!("`{unit}` is 1000 to some and 1024 to others; write {letter} or {letter}iB for 1024"))
        }
        _ => Err(format!("`{unit}` is no unit; use K, M, G, T or P (powers of 1024)")),
    }
}

/// The shortest text that [`parse_size`] reads as exactly `bytes`.
pub fn exact_size(bytes: u64) -> String {
    let mut best = bytes.to_string();
    for (letter, power) in UNITS {
        let unit = 1024u64.pow(power);
        if bytes != 0 && bytes.is_multiple_of(unit) {
            best = format!("{}{letter}", bytes / unit);
        }
    }
    best
}

/// Formats a size for reading, with about three significant figures.
pub fn about_size(bytes: u64) -> String {
    let power = UNITS.iter().rev().find(|(_, power)| bytes >= 1024u64.pow(*power));
    match power {
        None => format!("{bytes} B"),
        Some((letter, power)) => {
            let value = bytes as f64 / 1024f64.powi(*power as i32);
            let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            format!("{value:.decimals$} {letter}iB")
        }
    }
}

/// Formats a rate in bytes per second for reading.
pub fn about_rate(bytes_per_s: u64) -> String {
    format!("{}/s", about_size(bytes_per_s))
}

/// Formats a count for reading: `1,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats nanoseconds for reading: `840 ns`, `12.3 us`, `4.56 ms`, `1.20 s`.
pub fn about_ns(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        1_000_000_000.. => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// Formats a remaining time for reading: `8 s`, `3 min`, `2 h 05 min`.
pub fn about_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200.. => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Formats `done` of `total` in percent with one decimal; 100.0 if there is nothing to do.
pub fn percent(done: u64, total: u64) -> String {
    if total == 0 {
        return "100.0 %".into();
    }
    // Rounded down: 99.96 % done is not 100.0 %.
    let tenths = u128::from(done.min(total)) * 1000 / u128::from(total);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_as_operators_write_them() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("64KiB", 64 << 10),
            ("1GiB", 1 << 30),
            ("16T", 16 << 40),
            ("15P", 15 << 50),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in
            ["", "K", "-1", "1.5G", "64 K", "64KB", "1X", "99999999999999999999", "16384P", "1Ki", "µ", "1µ"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_operators_read_them() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 10, "10.0 KiB"),
            (1000 << 10, "1000 KiB"),
            (15_360_950_534_144, "14.0 TiB"),
            (u64::MAX, "16384 PiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(about_size(bytes), text);
        }
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(percent(9996, 10_000), "99.9 %");
        assert_eq!(percent(0, 0), "100.0 %");
        assert_eq!(about_time(Duration::from_secs(7_500)), "2 h 05 min");
    }

    proptest! {
        #[test]
        fn exact_size_reads_back(bytes: u64, shift in 0u32..64) {
            let bytes = bytes << shift;
            prop_assert_eq!(parse_size(&exact_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".{0,12}") {
            let _ = parse_size(&text);
        }
    }
}
