//! Start with a member that does not answer.
//!
//! Method: member files with a lease, so that nothing can open them (device/silent.rs). Oracle: the start
//! ends in time, either without the member or with an error, and names the member.

#![allow(clippy::disallowed_methods, reason = "a test tells the time")]

use std::time::{Duration, Instant};

use super::replace::tests::create_members;
use super::{ServeOptions, Server};
use crate::device::silent::Silent;
use crate::status::Health;

#[test]
fn a_member_that_does_not_answer_counts_as_missing() {
    let (directory, members) = create_members("silent-start");
    let _silent = Silent::file(&members[1]);
    let nbd = vec![format!("unix:{}", directory.join("socket").display())];
    let options = ServeOptions { members, reactors: 1, nbd, member_timeout_s: 1, ..ServeOptions::default() };
    let began = Instant::now();
    let server = Server::start(options.clone()).unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "started after {:?}", began.elapsed());
    assert!(server.warnings[0].contains("m1: does not answer"), "{:?}", server.warnings);
    assert_eq!(server.status().health, Health::NoRedundancy);
    server.stop().unwrap();
    drop(server);
    let _one_more = Silent::file(&options.members[2]);
    let refused = Server::start(options).err().expect("two of four are left").0;
    assert!(refused.contains("m1: does not answer") && refused.contains("m2: does not answer"), "{refused}");
    std::fs::remove_dir_all(&directory).unwrap();
}
