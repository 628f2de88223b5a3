//! The members of a bench, as text: `null:1T*5`, `mem:256M*3,/dev/nvme1n1,data.img`.
//!
//! ```text
//!     list   = spec { "," spec }
//!     spec   = kind [ "*" count ]
//!     kind   = "null:" size | "mem:" size | path
//! ```
//! A path that contains a comma, or ends in `*` and digits, cannot be written here; use a link to it. A path
//! has no count, because no file can be two members.

use std::str::FromStr;

use engine::bench::BenchMember;
use engine::limits::MEMBERS_MAX;

use crate::units::parse_size;

/// Members in slot order, at least one and at most [`MEMBERS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberList(pub Vec<BenchMember>);

impl FromStr for MemberList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut members = Vec::new();
        for spec in text.split(',') {
            let (member, count) = parse_spec(spec)?;
            if members.len() + count > MEMBERS_MAX {
                return Err(format!("more than {MEMBERS_MAX} members"));
            }
            members.extend(std::iter::repeat_n(member, count));
        }
        Ok(Self(members))
    }
}

fn parse_spec(spec: &str) -> Result<(BenchMember, usize), String> {
    let (kind, count) = match spec.rsplit_once('*') {
        Some((kind, count)) => (kind, Some(parse_count(count)?)),
        None => (spec, None),
    };
    let member = if let Some(size) = kind.strip_prefix("null:") {
        BenchMember::Null { bytes: member_size(size)? }
    } else if let Some(size) = kind.strip_prefix("mem:") {
        BenchMember::Memory { bytes: member_size(size)? }
    } else if kind.is_empty() {
        return Err("an empty member; write null:SIZE, mem:SIZE or a path".into());
    } else if count.is_some() {
        return Err(format!("`{kind}` cannot be several members; a count goes with null: and mem: only"));
    } else {
        BenchMember::File { path: kind.into() }
    };
    Ok((member, count.unwrap_or(1)))
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=MEMBERS_MAX) => Ok(count),
        _ => Err(format!("`*{text}` is no count; 1 to {MEMBERS_MAX}")),
    }
}

fn member_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("a member of no bytes".into()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[BenchMember]) {
        assert_eq!(text.parse::<MemberList>().map(|list| list.0), Ok(expected.to_vec()), "{text}");
    }

    #[test]
    fn lists() {
        let null = |bytes| BenchMember::Null { bytes };
        let memory = |bytes| BenchMember::Memory { bytes };
        let file = |path: &str| BenchMember::File { path: path.into() };
        check("null:1T*3", &[null(1 << 40), null(1 << 40), null(1 << 40)]);
        check("mem:256M,/dev/a,b.img", &[memory(256 << 20), file("/dev/a"), file("b.img")]);
        check("null:4K*1,mem:1G*2", &[null(4096), memory(1 << 30), memory(1 << 30)]);
    }

    #[test]
    fn what_is_no_list() {
        for text in [
            "",
            ",",
            "a,",
            "null:",
            "null:0",
            "null:1T*0",
            "null:1T*33",
            "mem:1G*20,mem:1G*20",
            "a*2",
            "mem:1GB",
        ] {
            assert!(text.parse::<MemberList>().is_err(), "{text}");
        }
    }
}
